"""Evidence for many pairs of images of a store, on all cores or as tasks of a cluster."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations_with_replacement
from typing import NamedTuple

import polars as pl

from imgsim_assets.compute.tasks import run_tasks, task_ranges
from imgsim_assets.errors import ComputeError, CorruptFileError, StoreError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.similarity.evidence.features import (
    ComparableImage,
    ImageFeatures,
    extract_features,
)
from imgsim_assets.similarity.evidence.pair import Evidence, compare, evidence_fingerprint
from imgsim_assets.similarity.evidence.table import FeatureTable
from imgsim_assets.similarity.evidence.tiers import SIMILAR
from imgsim_assets.similarity.threads import parallel_map
from imgsim_assets.storage.commit import DataFile
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

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
# Fewer pairs, or images to describe, are not worth a task of a cluster.
_MIN_PAIRS, _MIN_IMAGES = 512, 32
# What a task needs at most: the features, and the libraries.
_PART_BYTES = 2 * 2**30

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
    found = [known.join(wanted, on=_ENDS, how="semi")]
    if not new.height:
        return PairEvidence(found[0].sort(_ENDS), 0, 0)
    images = _describe_images(store, new)
    compare = partial(_compare_part, store, evidence_fingerprint())
    parts = [
        some[part.start : part.stop]
        for some in _in_parts(new)
        for part in task_ranges(some.height, smallest=_MIN_PAIRS, largest=some.height)
    ]
    results = run_tasks(compare, parts, "evidence", unit="batches of pairs", memory=_PART_BYTES)
    for rows, described in results:
        images += _commit_features(store, [described])
        found.append(rows)
    return PairEvidence(pl.concat(found).sort(_ENDS), new.height, images)


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


class _Described(NamedTuple):
    """Images whose features were computed: how many, their files, and errors of lost images."""

    images: int
    files: list[DataFile]
    lost: list[str]


def _describe_images(store: Store, pairs: pl.DataFrame) -> int:
    """Compute and commit the features that the store lacks; how many images that were."""
    table = FeatureTable(store)
    missing = table.without_features(pl.concat([pairs[end] for end in _ENDS]).unique())
    tasks = [
        missing[part.start : part.stop]
        for part in task_ranges(len(missing), smallest=_MIN_IMAGES, largest=_IMAGES_PER_COMMIT)
    ]
    results = run_tasks(
        partial(_describe_part, store), tasks, "local features", unit="batches", memory=_PART_BYTES
    )
    images, pending = 0, list[_Described]()
    for described in results:
        pending.append(described)
        if sum(each.images for each in pending) >= _IMAGES_PER_COMMIT:
            images += _commit_features(store, pending)
            pending = []
    return images + _commit_features(store, pending)


def _commit_features(store: Store, described: Sequence[_Described]) -> int:
    """Commit the files of features; how many images they are of."""
    FeatureTable(store).append([file for each in described for file in each.files])
    lost = [error for each in described for error in each.lost]
    if lost:
        raise StoreError(f"evidence lacks the bytes of {counted(len(lost), 'image')}: {min(lost)}")
    return sum(each.images for each in described)


def _describe_part(store: Store, images: Sequence[str]) -> _Described:
    """The task that computes the features of images (sha256)."""
    _, described = _describe(store, images)
    return described


def _describe(store: Store, images: Sequence[str]) -> tuple[Features, _Described]:
    """The features of images (sha256), and their files."""
    lost: dict[str, str] = {}

    def extract(sha256: str) -> ImageFeatures | None:
        try:
            data = store.blobs.get(sha256)
        except CorruptFileError as error:
            store.blobs.report_missing(sha256)
            lost[sha256] = str(error)
            return None
        try:
            return extract_features(decode(data, accept_truncated=True))
        except ImageError:
            return None

    features = dict(zip(images, parallel_map(extract, images), strict=True))
    found = {sha256: each for sha256, each in features.items() if sha256 not in lost}
    return features, _Described(len(images), FeatureTable(store).write(found), list(lost.values()))


def _compare_part(
    store: Store, fingerprint: str, pairs: pl.DataFrame
) -> tuple[pl.DataFrame, _Described]:
    """The task that compares pairs: their evidence, and features that were damaged meanwhile."""
    if evidence_fingerprint() != fingerprint:
        raise ComputeError(
            f"compute: {socket.gethostname()} compares images by another version of OpenCV or of "
            "imgsim_assets than the step does; install the same versions on every machine"
        )
    images = pl.concat([pairs[end] for end in _ENDS]).unique()
    features = FeatureTable(store).read(images)
    computed, described = _describe(store, sorted(set(images) - features.keys()))
    return _compare(features | computed, list(pairs.iter_rows())), described


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
