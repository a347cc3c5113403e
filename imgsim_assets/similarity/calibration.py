"""Measured thresholds of a catalog: the tables `<name>/threshold`.

All items of the catalog are compared with one another. A budget of false matches then gives a
threshold for each size of the catalog that is searched. A later measurement replaces the stored
one only when its threshold is outside the stored interval, so that a few new items do not change
every result.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass
from math import log
from typing import Any, NamedTuple

import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.similarity.budget import MIN_ITEMS, thresholds_within
from imgsim_assets.similarity.evidence.known_pairs import (
    EVIDENCE,
    EVIDENCE_FINGERPRINT,
    EVIDENCE_RULE,
    known_evidence,
)
from imgsim_assets.similarity.evidence.pair import evidence_fingerprint
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.nearest_others import nearest_others
from imgsim_assets.similarity.orientations import TurnedCatalogs
from imgsim_assets.similarity.other_items import NearestOthers
from imgsim_assets.similarity.same_items import AlignedImages, judged_matches, same_recipe
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.digest import RowsDigest
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.sorted_rows import sorted_rows
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# The threshold and its interval for a searched catalog of at most `size` items.
SCHEMA = {"size": pl.Int64, "threshold": pl.Float64, "low": pl.Float64, "high": pl.Float64}
DEFAULT_BUDGET = 0.01
# Increment when the same items give another threshold.
_VERSION = 1
_IMAGES = "images"
_RECIPE, BUDGET, _FORMAT = "recipe", "false_matches", "format"
_ITEMS, _DIFFERENT = "items", "different_items"
# The largest searched catalog: 2^30 items.
_MAX_EXPONENT = 30
# The least power, and over how many sizes it is taken.
MIN_SLOPE = 1.0
_SLOPE_SIZES = 8
_SMALLEST = 1e-3
# A stored measurement serves until this fraction of the catalog's images has changed.
_MAX_CHANGED = 0.1


@dataclass(frozen=True)
class Calibration:
    """A catalog's thresholds within a budget of false matches.

    Attributes:
        catalog: name of the catalog.
        budget: the accepted fraction of items with a false best match.
        items: items that were compared.
        different_items: items that do not share their first image with an earlier one.
        rows: a frame of SCHEMA, by size.
        changed: whether the call measured and committed.
        data_version: digest of the thresholds.
    """

    catalog: str
    budget: float
    items: int
    different_items: int
    rows: pl.DataFrame
    changed: bool
    data_version: str

    @property
    def is_measured(self) -> bool:
        """Whether there are enough different items to keep the budget."""
        return self.different_items >= MIN_ITEMS

    def threshold(self, size: int | None = None) -> float:
        """The threshold for a searched catalog of some size; by default of the catalog's own."""
        return float(self._row(size)[1])

    def interval(self, size: int | None = None) -> tuple[float, float]:
        """The interval of the threshold in 90 % of the resamples of the catalog."""
        _, _, low, high = self._row(size)
        return low, high

    @property
    def slope(self) -> float:
        """The power of the distance by which false pairs become fewer, at least 1.

        Among more items the same rate is at a smaller distance: by how much tells the power.
        """
        first, *_, last = self.rows.select("size", "threshold").rows()[:_SLOPE_SIZES]
        distances = [max(1 - row[1], _SMALLEST) for row in (first, last)]
        if last[0] <= first[0] or distances[1] >= distances[0]:
            return MIN_SLOPE
        return max(MIN_SLOPE, log(last[0] / first[0]) / log(distances[0] / distances[1]))

    def _row(self, size: int | None) -> tuple[int, float, float, float]:
        sizes = self.rows["size"].to_list()
        wanted = self.items if size is None else max(size, self.items)
        row: tuple[int, float, float, float] = self.rows.row(
            min(bisect_left(sizes, wanted), len(sizes) - 1)
        )
        return row


def calibration_table(
    store: Store,
    name: str,
    budget: float = DEFAULT_BUDGET,
    *,
    evidence: bool = False,
    orientations: bool = False,
) -> Table:
    """`<name>/threshold`; see SCHEMA.

    Thresholds over all orientations, for another budget than 1 %, and with evidence are in tables
    of their own, such as `<name>/threshold.orientations.0.05.evidence`.
    """
    suffix = ".orientations" if orientations else ""
    suffix += "" if budget == DEFAULT_BUDGET else f".{budget:g}"
    suffix += ".evidence" if evidence else ""
    return store.table(f"{name}/threshold{suffix}")


class CatalogItems(NamedTuple):
    """A catalog's items, with the commit of the embeddings or the index that they are of."""

    name: str
    commit: Commit
    items: Items


def find_calibration(
    store: Store,
    name: str,
    embeddings: Commit,
    keys: RowBlocks,
    budget: float,
    *,
    evidence: bool = False,
    max_changed: float = 0.0,
    orientations: bool = False,
) -> Calibration | None:
    """The stored thresholds of a catalog; None when they must be measured.

    Args:
        store: holds the catalog.
        name: name of the catalog.
        embeddings: the commit of the embeddings or the index that the items are of.
        keys: the images (id, sha256) of all items.
        budget: the accepted fraction of items with a false best match.
        evidence: as in `calibrate`.
        max_changed: the fraction of the images that may have changed since.
        orientations: whether the thresholds are over all orientations.
    """
    table = calibration_table(store, name, budget, evidence=evidence, orientations=orientations)
    stored = _read(table, table.latest(), embeddings)
    if stored is None:
        return None
    same = same_recipe(judged_matches(store, keys), evidence=evidence)
    is_same = stored.commit.properties[_RECIPE] == _recipe(embeddings, keys, budget, same)
    if is_same or (max_changed and _changed_fraction(stored.images, _images(keys)) <= max_changed):
        return _calibration(name, stored.commit, stored.rows, changed=False)
    return None


def calibrate(
    store: Store,
    catalog: CatalogItems,
    budget: float,
    *,
    evidence: bool = False,
    remeasure: bool = False,
    turned: TurnedCatalogs | None = None,
) -> Calibration:
    """The catalog's thresholds, as stored or measured now.

    Items of which people judged two images to be a match are no false matches.

    Args:
        store: holds the catalog.
        catalog: the catalog, with the images of all items.
        budget: the accepted fraction of items with a false best match.
        evidence: compare the images of the most similar items a second time; items whose images
            align are no false matches.
        remeasure: measure after any change of the items, of people's decisions or of what compares
            images, not only after a change of a tenth of the images.
        turned: the catalogs in all orientations, if these are compared.

    Raises:
        SettingsError: with evidence, when OpenCV is not installed.
        StoreError: with evidence, when the bytes of an image are missing or damaged.
    """
    name, embeddings, items = catalog
    max_changed = 0.0 if remeasure else _MAX_CHANGED
    found = find_calibration(
        store,
        name,
        embeddings,
        items.images,
        budget,
        evidence=evidence,
        max_changed=max_changed,
        orientations=turned is not None,
    )
    return found or measure(store, catalog, budget, evidence=evidence, turned=turned)[0]


def measure(
    store: Store,
    catalog: CatalogItems,
    budget: float,
    *,
    evidence: bool = False,
    turned: TurnedCatalogs | None = None,
) -> tuple[Calibration, NearestOthers]:
    """Measure and commit the catalog's thresholds, as `calibrate` does.

    Returns:
        The thresholds, and the nearest different items that they were measured on.
    """
    name, embeddings, items = catalog
    table = calibration_table(
        store, name, budget, evidence=evidence, orientations=turned is not None
    )
    latest = table.latest()
    stored = _read(table, latest, embeddings)
    judged = judged_matches(store, items.images)
    aligned = AlignedImages(store, known_evidence(store, table, latest)) if evidence else None
    in_all = turned.turned(name, embeddings, items) if turned is not None else None
    others = nearest_others(items, judged, in_all, aligned)
    recipe = _recipe(embeddings, items.images, budget, same_recipe(judged, evidence=evidence))
    if stored is not None and stored.commit.properties[_RECIPE] == recipe:
        return _calibration(name, stored.commit, stored.rows, changed=False), others
    rows = _measured_rows(others, budget)
    if stored is not None and _is_kept(stored, others, rows):
        rows = stored.rows
    properties: dict[str, Any] = {
        _RECIPE: recipe,
        FINGERPRINT: embeddings.properties[FINGERPRINT],
        BUDGET: budget,
        _ITEMS: len(others),
        _DIFFERENT: others.clusters,
        _FORMAT: _VERSION,
    }
    files = [table.write_rows(rows), table.write_rows(_images(items.images), role=_IMAGES)]
    if aligned is not None:
        properties[EVIDENCE_RULE] = {EVIDENCE_FINGERPRINT: evidence_fingerprint()}
        files.append(table.write_rows(aligned.compared, role=EVIDENCE))
    pending = PendingCommit(files, {embeddings.table: embeddings.version}, properties)
    commit = table.commit(lambda newest: None if pending.is_repeated(newest, latest) else pending)
    if commit is None:
        raise AssertionError("a pending commit is always committed")
    return _calibration(name, commit, table.read(commit), changed=True), others


def _measured_rows(others: NearestOthers, budget: float) -> pl.DataFrame:
    sizes = _sizes(len(others))
    measured = thresholds_within(others, budget, sizes)
    rows = [
        (size, each.value, each.low, each.high) for size, each in zip(sizes, measured, strict=True)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _is_kept(stored: _Stored, others: NearestOthers, measured: pl.DataFrame) -> bool:
    """Whether the stored thresholds stay: each new one is in the stored interval for its size."""
    if min(stored.commit.properties[_DIFFERENT], others.clusters) < MIN_ITEMS:
        return False
    both = measured.join(stored.rows, on="size", suffix="_stored")
    inside = pl.col("threshold").is_between(pl.col("low_stored"), pl.col("high_stored"))
    return both.height > 0 and bool(both.select(inside.all()).item())


def _images(keys: RowBlocks) -> pl.DataFrame:
    parts = (block for _, block in keys.blocks(["sha256"]))
    return sorted_rows(parts, pl.Schema({"sha256": pl.String}), ["sha256"]).all()


class _Stored(NamedTuple):
    """A commit of this encoder, its thresholds, and the images (sha256) that were compared."""

    commit: Commit
    rows: pl.DataFrame
    images: pl.DataFrame


def _read(table: Table, commit: Commit | None, embeddings: Commit) -> _Stored | None:
    """What a commit stores; None without one, of another encoder, or when it is damaged."""
    if commit is None or commit.properties[FINGERPRINT] != embeddings.properties[FINGERPRINT]:
        return None
    try:
        images = commit.file_with_role(_IMAGES)
        if images is None or commit.properties[_FORMAT] != _VERSION:
            return None
        return _Stored(commit, table.read(commit), table.read_file(images))
    except CorruptFileError:
        return None


def _calibration(name: str, commit: Commit, rows: pl.DataFrame, *, changed: bool) -> Calibration:
    properties = commit.properties
    return Calibration(
        catalog=name,
        budget=properties[BUDGET],
        items=properties[_ITEMS],
        different_items=properties[_DIFFERENT],
        rows=rows,
        changed=changed,
        data_version=hashlib.sha256(repr(rows.rows()).encode()).hexdigest(),
    )


def _recipe(embeddings: Commit, keys: RowBlocks, budget: float, same: str) -> str:
    """A digest of everything that decides a measurement."""
    context = [str(_VERSION), embeddings.properties[FINGERPRINT], repr(budget), same]
    columns = ["id", "sha256"]
    digest = RowsDigest(len(columns), *context)
    for _, block in keys.blocks(columns):
        digest.update(block)
    return digest.hexdigest()


def _changed_fraction(measured: pl.DataFrame, images: pl.DataFrame) -> float:
    """Images that were added or removed, as a fraction of those that were compared."""
    kept = measured.join(images, on="sha256", how="semi").height
    return (measured.height + images.height - 2 * kept) / max(measured.height, 1)


def _sizes(items: int) -> list[int]:
    """The powers of two from the catalog's own size."""
    return [2**exponent for exponent in range(_MAX_EXPONENT + 1) if 2**exponent >= items]
