from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.catalog.stage import items_table
from imgsim_assets.encoders import evaluation as evaluation_module
from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.encoder import Encoder, load_encoder
from imgsim_assets.encoders.evaluation import (
    EncoderEvaluation,
    EvaluationStage,
    evaluation_table,
)
from imgsim_assets.encoders.operating_points import (
    DIFFERENT_IMAGES,
    SCHEMA,
    THRESHOLDS,
    lowest_threshold_within_budget,
)
from imgsim_assets.encoders.recorded import encoder_from_commit
from imgsim_assets.encoders.settings import EncoderSettings, EvaluationSettings
from imgsim_assets.encoders.stage import latest_embeddings
from imgsim_assets.errors import StoreError
from imgsim_assets.images.perturbations import PERTURBATIONS
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, embed_shards, fill, sha256_of
from imgsim_assets_tests.support.damage import remove_blob
from imgsim_assets_tests.support.encoders import COUNTER, encoded_count
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.weights import hollow, saved, untrained

HOG_COLOR = EncoderSettings(name="hog_color")
GENEROUS = EvaluationSettings(sample=6, false_positives_per_million=20_000)
IMAGES: dict[str, bytes | None] = {f"item{seed:02d}": jpeg(seed) for seed in range(24)}


def test_recall_is_that_of_the_encoder_and_falls_with_the_threshold(store: Store) -> None:
    report = _reported(store, HOG_COLOR)

    assert set(report.recall) == set(PERTURBATIONS)
    assert report.recall["recompress"] == 1.0
    at_the_top = report.rows.filter(pl.col("threshold") == 0.95)
    shares = dict(at_the_top.select("perturbation", "recall").iter_rows())
    assert shares["recompress"] > shares["pad"]
    for edit in (*PERTURBATIONS, DIFFERENT_IMAGES):
        falling = report.rows.filter(pl.col("perturbation") == edit).sort("threshold")["recall"]
        assert falling.is_sorted(descending=True)
        assert len(falling) == len(THRESHOLDS)
    assert report.rows.schema == SCHEMA


def test_the_null_distribution_is_that_of_all_pairs_of_different_images(store: Store) -> None:
    embed_shards(
        store, "shop", HOG_COLOR, fill(store, "shop", {**IMAGES, "again": IMAGES["item00"]})
    )

    report = EvaluationStage(store, "shop", GENEROUS).run()

    assert report.images == 24
    assert report.pairs == sum(report.null_counts) == 24 * 23 // 2


def test_the_recommended_threshold_is_the_lowest_within_the_budget(store: Store) -> None:
    report = _reported(store, HOG_COLOR)

    assert report.is_measured
    assert report.false_positives_per_million <= GENEROUS.false_positives_per_million
    different = report.rows.filter(pl.col("perturbation") == DIFFERENT_IMAGES)
    lower = different.filter(pl.col("threshold") < report.threshold)
    assert ((lower["recall"] * report.pairs + 1) / report.pairs * 1e6 > 20_000).all()


def test_a_catalog_that_is_too_small_to_tell_keeps_the_encoders_threshold(store: Store) -> None:
    report = _reported(
        store, HOG_COLOR, EvaluationSettings(sample=2, false_positives_per_million=1)
    )

    assert (report.is_measured, report.threshold) == (False, 0.9)


@given(
    reaching=st.lists(st.integers(0, 1000), min_size=101, max_size=101),
    budget=st.floats(0.1, 1e6),
)
def test_no_threshold_is_recommended_that_breaks_its_budget(
    reaching: list[int], budget: float
) -> None:
    reaching.sort(reverse=True)
    rows = pl.DataFrame(
        [
            (DIFFERENT_IMAGES, threshold, count / 1000, 1000)
            for threshold, count in zip(THRESHOLDS, reaching, strict=True)
        ],
        schema=SCHEMA,
        orient="row",
    )

    found = lowest_threshold_within_budget(rows, budget)

    for threshold, count in zip(THRESHOLDS, reaching, strict=True):
        is_within = (count + 1) / 1000 * 1e6 <= budget
        assert is_within == (found is not None and threshold >= found)


def test_nothing_is_computed_when_nothing_has_changed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _reported(store, THUMBNAIL)
    monkeypatch.setenv(COUNTER, str(tmp_path / "encoded"))

    again = EvaluationStage(store, "shop", GENEROUS).run()
    other = EvaluationStage(store, "shop", GENEROUS.model_copy(update={"sample": 2})).run()

    assert (again.version, again.changed) == (first.version, False)
    assert again.rows.equals(first.rows)
    assert (other.version, other.changed) == (first.version + 1, True)
    assert encoded_count(tmp_path / "encoded") == 2 * len(PERTURBATIONS)


def test_a_report_computes_where_and_with_what_is_declared_now(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda: False)
    weights = tmp_path / "first.pth"
    first = _squeezenet(saved(untrained("squeezenet1_1"), weights))
    embed_shards(store, "shop", first, fill(store, "shop", IMAGES))
    moved = str(weights.rename(tmp_path / "moved.pth"))
    taken: list[EncoderSettings] = []

    def load(settings: EncoderSettings) -> Encoder:
        taken.append(settings)
        return load_encoder(settings)

    monkeypatch.setattr(evaluation_module, "load_encoder", load)
    # What `auto` would settle on now does not count.
    monkeypatch.setattr(hardware, "has_bf16", lambda: True)

    report = EvaluationStage(store, "shop", GENEROUS, _squeezenet(moved)).run()

    # An untrained network takes nearly everything for the same.
    low = report.rows.filter(perturbation="recompress", threshold=0.7)
    assert low["recall"].to_list() == [1.0]
    assert [(each.weights, each.device, each.precision) for each in taken] == [
        (moved, "cpu", "fp32")
    ]
    assert encoder_from_commit(latest_embeddings(store, "shop")).weights == str(weights)


def test_a_report_with_another_encoder_than_the_vectors_is_refused_before_it_is_loaded(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", IMAGES))
    declared = _squeezenet(hollow("squeezenet1_1", tmp_path / "own.pth"))
    monkeypatch.setattr(evaluation_module, "load_encoder", pytest.fail)

    with pytest.raises(
        StoreError, match="the vectors of shop were not made by the encoder squeezenet1_1"
    ):
        EvaluationStage(store, "shop", GENEROUS, declared).run()


def test_an_image_that_is_lost_counts_as_not_found(store: Store) -> None:
    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", IMAGES))
    lost = min(sha256_of(data) for data in IMAGES.values() if data is not None)
    remove_blob(store, lost)

    report = EvaluationStage(store, "shop", GENEROUS).run()

    assert report.recall["recompress"] == pytest.approx(5 / 6)


def test_labels_give_precision_and_mean_average_precision(store: Store) -> None:
    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", IMAGES))
    _label(store, {item: f"kind{number % 3}" for number, item in enumerate(IMAGES)})
    mixed = EvaluationStage(store, "shop", EvaluationSettings(sample=1, label="kind")).run().labels
    _label(store, dict.fromkeys(IMAGES, "all the same"))
    same = EvaluationStage(store, "shop", EvaluationSettings(sample=1, label="kind")).run().labels
    _label(store, {item: item for item in IMAGES})
    alone = EvaluationStage(store, "shop", EvaluationSettings(sample=1, label="kind")).run().labels

    assert mixed is not None
    assert same is not None
    assert mixed.images == 24
    assert 0 < mixed.mean_average_precision < 1
    scores = (same.precision_at_1, same.precision_at_10, same.mean_average_precision)
    assert scores == (1.0, 1.0, 1.0)
    assert alone is None


def test_a_label_column_that_is_not_there_is_answered_with_those_that_are(store: Store) -> None:
    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", IMAGES))
    _label(store, dict.fromkeys(IMAGES, "x"))

    with pytest.raises(StoreError, match=r"no column 'brand'; it has id, kind"):
        EvaluationStage(store, "shop", EvaluationSettings(label="brand")).run()


def test_embeddings_that_were_never_made_are_an_error_that_names_the_asset(store: Store) -> None:
    with pytest.raises(StoreError, match="shop/embeddings has no version yet"):
        EvaluationStage(store, "shop", GENEROUS).run()


def test_a_catalog_of_one_image_or_none_can_be_reported(store: Store) -> None:
    one = {"a": IMAGES["item00"]}
    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", one))
    report = EvaluationStage(store, "shop", GENEROUS).run()
    assert (report.images, report.pairs, report.is_measured) == (1, 0, False)

    embed_shards(store, "none", HOG_COLOR, fill(store, "none", {"a": None}))
    empty = EvaluationStage(store, "none", GENEROUS).run()
    assert (empty.images, empty.pairs, empty.is_measured) == (0, 0, False)
    assert evaluation_table(store, "none").latest() is not None


def _squeezenet(weights: str) -> EncoderSettings:
    return EncoderSettings(name="squeezenet1_1", weights=weights, device="cpu")


def _reported(
    store: Store,
    encoder: EncoderSettings,
    settings: EvaluationSettings = GENEROUS,
    name: str = "shop",
) -> EncoderEvaluation:
    embed_shards(store, name, encoder, fill(store, name, IMAGES))
    report = EvaluationStage(store, name, settings).run()
    assert np.isfinite(report.rows["recall"].to_numpy()).all()
    return report


def _label(store: Store, labels: dict[str, str]) -> None:
    table = items_table(store, "shop")
    file = table.write_rows(pl.DataFrame({"id": list(labels), "kind": list(labels.values())}))
    table.commit(lambda _: PendingCommit([file]))
