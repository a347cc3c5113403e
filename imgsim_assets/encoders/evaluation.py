"""How well an encoder does on a catalog's own images, and the threshold that follows.

Two things are measured on a sample. *Recall*: an image is edited as shops and re-uploaders do,
and the copy's cosine with its original is compared with a threshold. The *null distribution*:
cosines of pairs of different images of the catalog say how many false matches a threshold
lets through. Recall only falls with the threshold, so the best one is the lowest whose false
matches stay within a declared budget. Images of the same thing that the catalog does have
count as false here, so the recommendation errs on the strict side.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.catalog.stage import items_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.encoder import (
    Encoder,
    default_batch_size,
    load_encoder,
    needs_loading,
    recommended_threshold,
)
from imgsim_assets.encoders.engine import Encoded, Engine
from imgsim_assets.encoders.evaluation_settings import REPORT_VERSION, EvaluationSettings
from imgsim_assets.encoders.recorded import recorded_in, require_same_encoder
from imgsim_assets.encoders.settings import AUTO, EncoderSettings
from imgsim_assets.encoders.stage import FINGERPRINT, embeddings_table
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.edits import EDITS, edited
from imgsim_assets.images.header import ImageError
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

SCHEMA = {"edit": pl.String, "threshold": pl.Float64, "share": pl.Float64, "count": pl.Int64}
CHOICES = {
    "threshold": pl.Float64,
    "recall": pl.Float64,
    "false_positives_per_million": pl.Float64,
    "fpr_upper_bound_ppm": pl.Float64,
}
# The row that stands for pairs of different images, beside the rows of edits.
DIFFERENT = "different images"
RECOMMENDED = "recommended_threshold"
_RECIPE = "recipe"
_SETTINGS = "settings"
# From 0.5 in steps of 0.005; below, nothing is a copy.
THRESHOLDS = tuple(round(0.5 + 0.005 * step, 3) for step in range(101))
_NULL_IMAGES = 2000
_BINS = 400
_NEAREST = 10


@dataclass(frozen=True)
class LabelScores:
    """How far neighbors share a label, over the images of the null sample.

    P@1, P@10 and mean average precision of ranking all others by cosine.
    """

    images: int
    precision_at_1: float
    precision_at_10: float
    mean_average_precision: float


@dataclass(frozen=True)
class EncoderEvaluation:
    """The newest report. `recall` is by edit, at `threshold`.

    `threshold` is the recommended one, or the encoder's own where the catalog is too small
    to tell (`is_measured` is False).
    """

    version: int
    rows: pl.DataFrame
    images: int
    pairs: int
    threshold: float
    is_measured: bool
    false_positives_per_million: float
    recall: Mapping[str, float]
    null_counts: Sequence[int]
    labels: LabelScores | None
    seconds: float
    changed: bool
    fingerprint: str
    data_version: str


def evaluation_table(store: Store, name: str) -> Table:
    """`<name>/encoder_evaluation`: shares of copies and of different pairs by threshold."""
    return store.table(f"{name}/encoder_evaluation")


def settings_of(store: Store, name: str) -> EvaluationSettings:
    """The settings of a catalog's newest report; the defaults where there is none."""
    newest = evaluation_table(store, name).latest()
    known = newest.properties.get(_SETTINGS, {}) if newest is not None else {}
    return EvaluationSettings.model_validate(known)


def recorded_encoder(store: Store, name: str) -> EncoderSettings:
    """The encoder of a catalog's newest vectors, as the run that made them recorded it.

    Devices are not recorded, and a weights file may lie elsewhere by now. Raises StoreError
    when there are no embeddings.
    """
    return recorded_in(_embeddings(store, name))


def update_evaluation(
    store: Store,
    name: str,
    settings: EvaluationSettings,
    encoder: EncoderSettings | None = None,
    *,
    log: Log = silent,
) -> EncoderEvaluation:
    """Measure a catalog's encoder on a sample of its images and commit what was found.

    `encoder` is the catalog's as it is declared now, its weights file located: it says where
    and with what to compute. Without it the one that was recorded with the vectors is taken.
    The sample are the images with the smallest hashes: a random choice that stays nearly the
    same as the catalog grows. Nothing is computed when neither it nor the settings changed.
    Raises StoreError when there are no embeddings, when another encoder made them, or when
    there is no such label column.
    """
    started = time.monotonic()
    embeddings = _embeddings(store, name)
    items = _items(store, name, embeddings, settings)
    images = sorted(set(items["sha256"].to_list()))[:_NULL_IMAGES]
    labels = _labels(items, images) if settings.label else None
    recipe = _recipe(embeddings, images, labels, settings)
    table = evaluation_table(store, name)
    newest = table.latest()
    if newest is not None and newest.properties[_RECIPE] == recipe:
        return _report(table, newest, started, changed=False)
    recorded = recorded_in(embeddings)
    chosen = _as_computed(encoder or recorded, recorded)
    vectors = VectorTable(store, name, embeddings.properties[FINGERPRINT]).read(images).vectors
    cosines = _cross_pairs(vectors)
    copies = _copies(store, name, chosen, embeddings, images[: settings.sample], vectors, log)
    rows = _rows(copies, cosines)
    measured = lowest_within(rows, settings.false_positives_per_million)
    threshold = measured if measured is not None else recommended_threshold(recorded)
    properties = {
        _RECIPE: recipe,
        _SETTINGS: settings.model_dump(mode="json"),
        FINGERPRINT: embeddings.properties[FINGERPRINT],
        RECOMMENDED: threshold,
        "is_measured": measured is not None,
        "images": len(images),
        "null_counts": np.histogram(cosines, bins=_BINS, range=(-1, 1))[0].tolist(),
        "labels": _label_scores(vectors, labels) if labels is not None else None,
    }
    file = table.write_rows(rows)
    commit = table.commit(
        lambda _: PendingCommit([file], {f"{name}/embeddings": embeddings.version}, properties)
    )
    if commit is None:
        raise AssertionError("a draft is always committed")
    return _report(table, commit, started, changed=True)


def lowest_within(rows: pl.DataFrame, false_positives_per_million: float) -> float | None:
    """The lowest threshold that keeps within a budget of false matches, by a report's rows.

    None when not even the highest threshold is certain enough.
    """
    different = rows.filter(pl.col("edit") == DIFFERENT).sort("threshold")
    passing = different.filter(fpr_upper_bound_ppm() <= false_positives_per_million)
    return float(passing["threshold"][0]) if passing.height else None


def fpr_upper_bound_ppm() -> pl.Expr:
    """False matches among a million pairs, of a report's rows of DIFFERENT.

    One pair more than was seen is reckoned with, so that a small sample does not promise what
    it cannot know.
    """
    count = pl.col("count")
    return (pl.col("share") * count + 1) / count.clip(lower_bound=1) * 1e6


def choices_of(rows: pl.DataFrame) -> pl.DataFrame:
    """CHOICES: by threshold the mean recall over the edits, and false matches in a million pairs.

    Of false matches as many as were seen, and with one more, which a budget is compared with.
    """
    of_edits = rows.filter(pl.col("edit") != DIFFERENT)
    recall = of_edits.group_by("threshold").agg(pl.col("share").mean().alias("recall"))
    false = rows.filter(pl.col("edit") == DIFFERENT).select(
        "threshold",
        (pl.col("share") * 1e6).alias("false_positives_per_million"),
        fpr_upper_bound_ppm().alias("fpr_upper_bound_ppm"),
    )
    return recall.join(false, on="threshold").sort("threshold").select(list(CHOICES))


def measured_below(threshold: float) -> float:
    """The highest threshold of a report that is at most this one; else its lowest."""
    # The encoder's own threshold may lie between two that were measured.
    return max((value for value in THRESHOLDS if value <= threshold), default=THRESHOLDS[0])


def advised_threshold(store: Store, names: Sequence[str], fingerprint: str) -> float:
    """The strictest threshold that the reports of some catalogs recommend for an encoder.

    Raises StoreError when none of them has a report about it.
    """
    found = []
    for name in names:
        commit = evaluation_table(store, name).latest()
        if commit is not None and commit.properties[FINGERPRINT] == fingerprint:
            found.append(float(commit.properties[RECOMMENDED]))
    if not found:
        raise StoreError(
            f"threshold: auto needs a report about the encoder; set 'report: {{}}' of "
            f"{' or '.join(dict.fromkeys(names))} and materialize its encoder_evaluation, or run "
            f"'imgsim recommend-threshold {' '.join(dict.fromkeys(names))}'"
        )
    return max(found)


# ---- the encoder ------------------------------------------------------------------------


def _embeddings(store: Store, name: str) -> Commit:
    commit = embeddings_table(store, name).latest()
    if commit is None:
        raise StoreError(f"{name}/embeddings has no version yet; materialize it first")
    return commit


def _as_computed(encoder: EncoderSettings, recorded: EncoderSettings) -> EncoderSettings:
    """The settings with `precision: auto` replaced by what the vectors were computed in."""
    if encoder.precision != AUTO:
        return encoder
    return encoder.model_copy(update={"precision": recorded.precision})


def _loaded(name: str, settings: EncoderSettings, embeddings: Commit) -> Encoder:
    """The encoder, ready to work; raises as `require_same_encoder` when the vectors are not of it."""
    # Found without loading wherever possible, so that a wrong network is not loaded first.
    encoder = load_encoder(settings) if needs_loading(settings) else None
    made_by = embeddings.properties[FINGERPRINT]
    require_same_encoder(settings, made_by, f"the vectors of {name}", encoder)
    return encoder or load_encoder(settings)


# ---- the sample -------------------------------------------------------------------------


def _items(
    store: Store, name: str, embeddings: Commit, settings: EvaluationSettings
) -> pl.DataFrame:
    """id, sha256 (and label) of the items with a vector."""
    rows = embeddings_table(store, name).read(embeddings).filter(pl.col("status") == OK)
    items = rows.select("id", "sha256")
    if settings.label is None:
        return items
    table = items_table(store, name)
    newest = table.latest()
    carried = table.read(newest) if newest is not None else pl.DataFrame()
    if settings.label not in carried.columns:
        raise StoreError(
            f"report: label: {name}/items has no column {settings.label!r}; it has "
            f"{', '.join(carried.columns) or 'none'}"
        )
    label = carried.select("id", pl.col(settings.label).cast(pl.String).alias("label"))
    return items.join(label, on="id", how="left")


def _labels(items: pl.DataFrame, images: Sequence[str]) -> list[str | None]:
    """The label of each image, by its first item; None without one."""
    first = items.sort("id").unique("sha256", keep="first")
    of_image = dict(first.select("sha256", "label").iter_rows())
    return [of_image[sha256] for sha256 in images]


def _recipe(
    embeddings: Commit,
    images: Sequence[str],
    labels: Sequence[str | None] | None,
    settings: EvaluationSettings,
) -> str:
    """A digest of everything that decides the report."""
    parts = [REPORT_VERSION, embeddings.properties[FINGERPRINT], settings.model_dump_json()]
    parts += [*images, repr(labels)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# ---- measuring --------------------------------------------------------------------------


def _cross_pairs(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines of all pairs of different images."""
    cosines: NDArray[np.float32] = (vectors @ vectors.T)[np.triu_indices(len(vectors), k=1)]
    return cosines


def _copies(
    store: Store,
    name: str,
    settings: EncoderSettings,
    embeddings: Commit,
    images: Sequence[str],
    vectors: NDArray[np.float32],
    log: Log,
) -> dict[str, NDArray[np.float64]]:
    """By edit, the cosine of every image's copy with the image; 0 without a vector."""
    keys = [(position, edit) for position in range(len(images)) for edit in EDITS]
    cosines = {edit: np.zeros(len(images)) for edit in EDITS}
    if not keys:
        return cosines

    def copy_of(key: tuple[int, str]) -> Image.Image:
        position, edit = key
        sha256 = images[position]
        try:
            original = decode(store.blobs.get(sha256))
        except CorruptFileError as error:
            raise ImageError("lost_image", str(error)) from error
        return edited(original, edit, int(sha256[:8], 16))

    encoder = _loaded(name, settings, embeddings)
    engine = Engine(encoder, default_batch_size(settings, encoder), what=settings.describe())
    with Progress(f"{name} encoder report", len(keys), log, unit="copies") as progress:
        for result in engine.run(keys, copy_of):
            if not isinstance(result, Encoded):
                progress.advance(kind=result.error.status)
                continue
            raw = result.features.astype(np.float64)
            for (position, edit), row in zip(result.keys, raw, strict=True):
                length = float(np.linalg.norm(row))
                if np.isfinite(length) and length > 0:
                    cosines[edit][position] = float(row @ vectors[position]) / length
            progress.advance(len(result.keys), kind="encoded")
    return cosines


def _rows(
    copies: Mapping[str, NDArray[np.float64]], different: NDArray[np.floating[Any]]
) -> pl.DataFrame:
    """SCHEMA: of each edit and of different images, the share at or above each threshold."""
    rows = []
    measured: dict[str, NDArray[np.floating[Any]]] = {**copies, DIFFERENT: different}
    for edit, values in measured.items():
        ordered = np.sort(values)
        below = np.searchsorted(ordered, np.asarray(THRESHOLDS, ordered.dtype), side="left")
        for threshold, position in zip(THRESHOLDS, below.tolist(), strict=True):
            share = (len(ordered) - position) / len(ordered) if len(ordered) else 0.0
            rows.append((edit, threshold, share, len(ordered)))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _label_scores(
    vectors: NDArray[np.float32], labels: Sequence[str | None]
) -> dict[str, float] | None:
    """P@1, P@10 and mAP of images whose label others share; None where there are none."""
    known = np.array([label is not None for label in labels], dtype=bool)
    names = np.array([label or "" for label in labels])
    same = (names[:, None] == names[None, :]) & known[:, None] & known[None, :]
    np.fill_diagonal(same, False)
    queries = np.flatnonzero(same.any(axis=1))
    if not len(queries):
        return None
    first, ten, average = [], [], []
    for query in queries.tolist():
        cosines = vectors @ vectors[query]
        cosines[query] = -np.inf
        hits = same[query][np.argsort(-cosines, kind="stable")][:-1]
        first.append(hits[0])
        ten.append(hits[:_NEAREST].mean())
        found = np.flatnonzero(hits)
        average.append(float((np.arange(1, len(found) + 1) / (found + 1)).mean()))
    return {
        "images": len(queries),
        "precision_at_1": float(np.mean(first)),
        "precision_at_10": float(np.mean(ten)),
        "mean_average_precision": float(np.mean(average)),
    }


def _report(table: Table, commit: Commit, started: float, *, changed: bool) -> EncoderEvaluation:
    rows = table.read(commit)
    facts = commit.properties
    threshold = float(facts[RECOMMENDED])
    at_it = rows.filter(pl.col("threshold") == measured_below(threshold))
    shares = dict(at_it.select("edit", "share").iter_rows())
    different = rows.filter(pl.col("edit") == DIFFERENT)
    return EncoderEvaluation(
        version=commit.version,
        rows=rows,
        images=int(facts["images"]),
        pairs=int(different["count"][0]),
        threshold=threshold,
        is_measured=bool(facts["is_measured"]),
        false_positives_per_million=shares.pop(DIFFERENT) * 1e6,
        recall=shares,
        null_counts=facts["null_counts"],
        labels=LabelScores(**facts["labels"]) if facts["labels"] else None,
        seconds=time.monotonic() - started,
        changed=changed,
        fingerprint=facts[FINGERPRINT],
        data_version=facts[_RECIPE],
    )
