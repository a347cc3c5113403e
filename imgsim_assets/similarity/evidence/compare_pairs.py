"""Evidence for many pairs of images of a store, on all cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import polars as pl

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.similarity.evidence.features import (
    ComparableImage,
    ImageFeatures,
    extract_features,
)
from imgsim_assets.similarity.evidence.pair import Evidence, compare
from imgsim_assets.similarity.evidence.table import FeatureTable
from imgsim_assets.similarity.evidence.tiers import SIMILAR
from imgsim_assets.similarity.threads import parallel_map
from imgsim_assets.storage.store import Store

# One row for each pair of different images; the smaller sha256 is on the left.
PAIR_SCHEMA = {
    "left_sha256": pl.String,
    "right_sha256": pl.String,
    "evidence": pl.String,
    "inliers": pl.Int32,
    "transform": pl.String,
    "close": pl.Boolean,
}
_ENDS = ("left_sha256", "right_sha256")
# Images whose features are committed at once: what an interrupted run loses at most.
_IMAGES_PER_COMMIT = 512
# Images whose features are in memory at once, about 20 kB each.
_IMAGES_IN_MEMORY = 40_000
_PAIRS_PER_TASK = 64

Features = dict[str, ImageFeatures | None]


class PairEvidence(NamedTuple):
    """Evidence for pairs (see PAIR_SCHEMA), and how many pairs and images it took."""

    pairs: pl.DataFrame
    compared: int
    images: int


def in_order(pairs: pl.DataFrame) -> pl.DataFrame:
    """Distinct pairs of different images (left_sha256, right_sha256), the smaller one left."""
    left, right = (pl.col(end) for end in _ENDS)
    ordered = pairs.select(
        pl.min_horizontal(left, right).alias(_ENDS[0]),
        pl.max_horizontal(left, right).alias(_ENDS[1]),
    )
    return ordered.filter(left != right).unique().sort(_ENDS)


def evidence_for(
    store: Store, pairs: pl.DataFrame, known: pl.DataFrame | None = None
) -> PairEvidence:
    """The evidence for pairs of images.

    Images whose features the store does not have are decoded; those that cannot be decoded are
    no more than similar to others.

    Args:
        store: where the images and their features are.
        pairs: left_sha256 and right_sha256 of images, in any order.
        known: evidence by the same fingerprint, which is not computed again.

    Raises:
        StoreError: The bytes of an image are missing or damaged. They are reported missing, so
            that the next run of the images asset fetches them.
    """
    wanted = in_order(pairs)
    if known is None:
        known = pl.DataFrame(schema=PAIR_SCHEMA)
    new = wanted.join(known, on=_ENDS, how="anti")
    frames = [known.join(wanted, on=_ENDS, how="semi")]
    images = 0
    for some in _in_parts(new):
        features, extracted = _features(store, pl.concat([some[end] for end in _ENDS]).unique())
        frames.append(_compare(features, list(some.iter_rows())))
        images += extracted
    return PairEvidence(pl.concat(frames).sort(_ENDS), new.height, images)


def _in_parts(pairs: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The pairs in parts, each of few enough images for the memory."""
    images = pl.concat([pairs[end] for end in _ENDS]).unique().sort()
    if len(images) <= _IMAGES_IN_MEMORY:
        if pairs.height:
            yield pairs
        return
    # Every pair lies between two ranges of images, or within one.
    size = _IMAGES_IN_MEMORY // 2
    ranges = [pl.Series(images.search_sorted(pairs[end]) // size) for end in _ENDS]
    for left, right in combinations_with_replacement(range(-(-len(images) // size)), 2):
        some = pairs.filter((ranges[0] == left) & (ranges[1] == right))
        if some.height:
            yield some


def _features(store: Store, images: pl.Series) -> tuple[Features, int]:
    """The features of images (sha256), and how many were computed and committed now."""
    table = FeatureTable(store)
    features = table.read(images)
    missing = sorted(set(images) - features.keys())
    lost: list[str] = []

    def extract(sha256: str) -> ImageFeatures | None:
        try:
            data = store.blobs.get(sha256)
        except CorruptFileError as error:
            store.blobs.report_missing(sha256)
            lost.append(str(error))
            return None
        try:
            return extract_features(decode(data, accept_truncated=True))
        except ImageError:
            return None

    for start in range(0, len(missing), _IMAGES_PER_COMMIT):
        some = missing[start : start + _IMAGES_PER_COMMIT]
        extracted = dict(zip(some, parallel_map(extract, some), strict=True))
        if lost:
            raise StoreError(f"evidence lacks the bytes of {len(lost)} images: {min(lost)}")
        table.append(extracted)
        features |= extracted
    return features, len(missing)


def _compare(features: Features, pairs: Sequence[tuple[str, str]]) -> pl.DataFrame:
    def compare_some(some: Sequence[tuple[str, str]]) -> list[tuple[object, ...]]:
        unpacked: dict[str, ComparableImage | None] = {}

        def image(sha256: str) -> ComparableImage | None:
            if sha256 not in unpacked:
                found = features[sha256]
                unpacked[sha256] = ComparableImage.of(found) if found is not None else None
            return unpacked[sha256]

        rows: list[tuple[object, ...]] = []
        for left, right in some:
            a, b = image(left), image(right)
            evidence = Evidence(SIMILAR) if a is None or b is None else compare(a, b)
            rows.append((left, right, *evidence))
        return rows

    tasks = [pairs[at : at + _PAIRS_PER_TASK] for at in range(0, len(pairs), _PAIRS_PER_TASK)]
    rows = [row for rows in parallel_map(compare_some, tasks) for row in rows]
    return pl.DataFrame(rows, schema=PAIR_SCHEMA, orient="row")
