"""How well an encoder does on a catalog's own images: the table `<name>/encoder_evaluation`.

*Recall* is measured on a sample: images are perturbed as shops and re-uploaders do, and the cosine
of each copy with its original is compared with a threshold. *False matches* are measured on all
items: the best different item of each, which also decides the threshold of the catalog (see
`similarity.calibration`); and on a sample all pairs of different images. Images of the same thing
count as different here, so the threshold that follows errs on the strict side.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.catalog.stage import items_table
from imgsim_assets.encoders.recorded import (
    FINGERPRINT,
    encoder_from_commit,
    recorded_name,
)
from imgsim_assets.encoders.settings import (
    EVALUATION_VERSION,
    EncoderSettings,
    EvaluationSettings,
)
from imgsim_assets.errors import StoreError
from imgsim_assets.evaluation.copies import CopyEncoder, Originals
from imgsim_assets.evaluation.operating_points import (
    BEST_DIFFERENT,
    DIFFERENT_IMAGES,
    evaluation_rows,
    point_at,
    recall_rows,
)
from imgsim_assets.images.perturbations import PERTURBATIONS
from imgsim_assets.index.stage import embedded_images
from imgsim_assets.similarity.calibration import (
    Calibration,
    CatalogItems,
    find_calibration,
    measure,
)
from imgsim_assets.similarity.evaluation_table import SETTINGS, evaluation_table
from imgsim_assets.similarity.items import Items, with_vectors
from imgsim_assets.similarity.same_items import judged_matches, same_recipe
from imgsim_assets.similarity.threshold import auto_threshold
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store

_RECIPE, _COPIES = "recipe", "copies_recipe"
_THRESHOLD, _SOURCE = "recommended_threshold", "threshold_source"
_MAX_IMAGES = 2000
_BINS = 400
_NEAREST = 10


@dataclass(frozen=True)
class LabelScores:
    """How well neighbors share a label: P@1, P@10 and mean average precision.

    Every image whose label another one shares is a query that ranks all others by cosine.
    """

    images: int
    precision_at_1: float
    precision_at_10: float
    mean_average_precision: float


@dataclass(frozen=True)
class EncoderEvaluation:
    """A catalog's newest evaluation.

    Attributes:
        version: of the table.
        rows: a frame of `operating_points.SCHEMA`.
        items: items that were compared.
        images: images of the sample.
        pairs: pairs of different images in the sample.
        threshold: the threshold that `auto` has within the catalog.
        interval: of the measured threshold, in 90 % of the resamples of the catalog.
        source: how the threshold was decided.
        is_measured: whether the catalog is large enough to keep the budget.
        false_best_matches: the fraction of items whose best different item reaches `threshold`.
        false_positives_per_million: false matches among a million pairs, at `threshold`.
        recall: by perturbation, the share of copies that are found at `threshold`.
        null_counts: histogram of the cosines of different images, equal bins over [-1, 1].
        labels: scores of the label column, None without one or where no two images share one.
        seconds: duration of the run.
        changed: whether the run committed a new version.
        encoder: of the vectors, in words.
        fingerprint: of the encoder.
        data_version: digest of everything that decides the evaluation.
    """

    version: int
    rows: pl.DataFrame
    items: int
    images: int
    pairs: int
    threshold: float
    interval: tuple[float, float]
    source: str
    is_measured: bool
    false_best_matches: float
    false_positives_per_million: float
    recall: Mapping[str, float]
    null_counts: Sequence[int]
    labels: LabelScores | None
    seconds: float
    changed: bool
    encoder: str
    fingerprint: str
    data_version: str


class EvaluationStage:
    """Evaluates a catalog's encoder on a sample of its images.

    The sample are the images with the smallest hashes: a random choice that stays nearly the
    same as the catalog grows.

    Args:
        store: holds the catalog.
        name: name of the catalog.
        settings: size of the sample, budget of false matches, label column.
        encoder: the catalog's encoder as declared, its weights file located: it says where to
            compute. By default the encoder that was recorded with the vectors, which must not be
            a factory's.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        settings: EvaluationSettings,
        encoder: EncoderSettings | None = None,
    ) -> None:
        self._store = store
        self._name = name
        self._settings = settings
        self._declared = encoder
        self._table = evaluation_table(store, name)

    def run(self) -> EncoderEvaluation:
        """Measure and commit, unless neither the items nor the settings changed.

        Raises:
            StoreError: when there are no embeddings, when another encoder made them, or when
                the label column does not exist.
        """
        started = time.monotonic()
        embeddings, keys = embedded_images(self._store, self._name)
        images = keys.unique("sha256", keep="first", maintain_order=True).sort("sha256")
        images = images.head(_MAX_IMAGES)
        labels = self._labels(images) if self._settings.label else None
        evidence, budget = self._settings.evidence, self._settings.false_matches
        same = same_recipe(judged_matches(self._store, RowBlocks.of(keys)), evidence=evidence)
        recipe = _recipe(embeddings.properties[FINGERPRINT], keys, labels, self._settings, same)
        newest = self._table.latest()
        if newest is not None and not self._table.verify_checksums(newest):
            newest = None
        if newest is not None and newest.properties[_RECIPE] == recipe:
            stored = find_calibration(
                self._store,
                self._name,
                embeddings,
                RowBlocks.of(keys),
                budget,
                evidence=evidence,
            )
            if stored is not None:
                return self._evaluation(newest, stored, embeddings, started, changed=False)
        items = with_vectors(self._store, self._name, embeddings.properties[FINGERPRINT], keys)
        calibration, others = measure(
            self._store, CatalogItems(self._name, embeddings, items), budget, evidence=evidence
        )
        sample = _rows_of(items, images)
        different = _different_pairs(sample)
        false: dict[str, NDArray[np.floating[Any]]] = {
            DIFFERENT_IMAGES: different,
            BEST_DIFFERENT: others.best,
        }
        recorded = encoder_from_commit(embeddings)
        recall, copies_recipe = self._recall(embeddings, sample, newest)
        threshold = auto_threshold([calibration], recorded)
        scores = _label_scores(sample.vectors, labels) if labels is not None else None
        properties = {
            _RECIPE: recipe,
            _COPIES: copies_recipe,
            SETTINGS: self._settings.model_dump(mode="json"),
            FINGERPRINT: embeddings.properties[FINGERPRINT],
            _THRESHOLD: threshold.value,
            _SOURCE: threshold.source,
            "images": len(sample),
            "null_counts": np.histogram(different, bins=_BINS, range=(-1, 1))[0].tolist(),
            "labels": asdict(scores) if scores is not None else None,
        }
        file = self._table.write_rows(pl.concat([recall, evaluation_rows(false)]))
        inputs = {f"{self._name}/embeddings": embeddings.version}
        commit = self._table.commit(lambda _: PendingCommit([file], inputs, properties))
        if commit is None:
            raise AssertionError("a pending commit is always committed")
        return self._evaluation(commit, calibration, embeddings, started, changed=True)

    def _recall(
        self, embeddings: Commit, sample: Items, newest: Commit | None
    ) -> tuple[pl.DataFrame, str]:
        """The recall of the copies of the sample's first images, and the recipe of it.

        The newest evaluation's recall is reused where it is of the same images.
        """
        fingerprint = embeddings.properties[FINGERPRINT]
        copied = sample.keys["sha256"].head(self._settings.sample_size).to_list()
        recipe = _copies_recipe(fingerprint, copied)
        if newest is not None and newest.properties.get(_COPIES) == recipe:
            return recall_rows(self._table.read(newest)), recipe
        encoder = CopyEncoder(self._store, self._name, embeddings, self._declared)
        cosines = encoder.cosines(Originals(copied, sample.vectors[: len(copied)]))
        return evaluation_rows(cosines), recipe

    def _labels(self, images: pl.DataFrame) -> list[str | None]:
        """The label of each image, by its first item; None without one."""
        column = self._settings.label
        table = items_table(self._store, self._name)
        newest = table.latest()
        catalog = table.read(newest) if newest is not None else pl.DataFrame()
        if column is None or column not in catalog.columns:
            raise StoreError(
                f"evaluation: label: {self._name}/items has no column {column!r}; it has "
                f"{', '.join(catalog.columns) or 'none'}"
            )
        labels = catalog.select("id", pl.col(column).cast(pl.String).alias("label"))
        joined = images.join(labels, on="id", how="left", maintain_order="left")
        of_images: list[str | None] = joined["label"].to_list()
        return of_images

    def _evaluation(
        self,
        commit: Commit,
        calibration: Calibration,
        embeddings: Commit,
        started: float,
        *,
        changed: bool,
    ) -> EncoderEvaluation:
        rows = self._table.read(commit)
        properties = commit.properties
        threshold = float(properties[_THRESHOLD])
        recall, false_best, false_positives = point_at(rows, threshold)
        return EncoderEvaluation(
            version=commit.version,
            rows=rows,
            items=calibration.items,
            images=int(properties["images"]),
            pairs=int(rows.filter(pl.col("perturbation") == DIFFERENT_IMAGES)["count"][0]),
            threshold=threshold,
            interval=calibration.interval(),
            source=properties[_SOURCE],
            is_measured=calibration.is_measured,
            false_best_matches=false_best,
            false_positives_per_million=false_positives,
            recall=recall,
            null_counts=properties["null_counts"],
            labels=LabelScores(**properties["labels"]) if properties["labels"] else None,
            seconds=time.monotonic() - started,
            changed=changed,
            encoder=recorded_name(embeddings),
            fingerprint=properties[FINGERPRINT],
            data_version=properties[_RECIPE],
        )


def _rows_of(items: Items, images: pl.DataFrame) -> Items:
    """The rows of some images, in their order."""
    numbered = items.keys.with_row_index("row")
    rows = images.join(numbered, on=images.columns, how="left", maintain_order="left")["row"]
    return Items(images, items.blocks.take(rows.to_numpy().astype(np.int64)))


def _different_pairs(sample: Items) -> NDArray[np.float32]:
    """The cosines (m,) of all pairs of images of different items; equal vectors are no pair."""
    cosines = sample.vectors @ sample.vectors.T
    item = sample.keys["id"].rank("dense").to_numpy()
    first = np.empty(len(sample), np.int64)
    unique = sample.join_input.unique
    first[unique.rows] = np.repeat(unique.first, unique.counts)
    is_pair = (item[:, None] != item[None, :]) & (first[:, None] != first[None, :])
    pairs: NDArray[np.float32] = cosines[np.triu(is_pair, k=1)]
    return pairs


def _recipe(
    fingerprint: str,
    keys: pl.DataFrame,
    labels: Sequence[str | None] | None,
    settings: EvaluationSettings,
    same: str,
) -> str:
    """A digest of everything that decides the evaluation."""
    compared = rows_digest(keys.select("id", "sha256"), EVALUATION_VERSION, fingerprint)
    parts = [compared, settings.model_dump_json(), repr(labels), same]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _copies_recipe(fingerprint: str, images: Sequence[str]) -> str:
    """A digest of everything that decides the recall."""
    parts = [EVALUATION_VERSION, fingerprint, *PERTURBATIONS, *images]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _label_scores(vectors: NDArray[np.float32], labels: Sequence[str | None]) -> LabelScores | None:
    """Scores of the images whose label others share; None where there are none."""
    has_label = np.array([label is not None for label in labels], dtype=bool)
    names = np.array([label or "" for label in labels])
    same = (names[:, None] == names[None, :]) & has_label[:, None] & has_label[None, :]
    np.fill_diagonal(same, False)
    queries = np.flatnonzero(same.any(axis=1))
    if not len(queries):
        return None
    at_1, at_10, average = [], [], []
    for query in queries.tolist():
        cosines = vectors @ vectors[query]
        cosines[query] = -np.inf
        hits = same[query][np.argsort(-cosines, kind="stable")][:-1]
        ranks = np.flatnonzero(hits)
        at_1.append(hits[0])
        at_10.append(hits[:_NEAREST].mean())
        average.append(float((np.arange(1, len(ranks) + 1) / (ranks + 1)).mean()))
    return LabelScores(
        len(queries), float(np.mean(at_1)), float(np.mean(at_10)), float(np.mean(average))
    )
