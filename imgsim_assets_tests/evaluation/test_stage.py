from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from imgsim_assets.catalog.stage import items_table
from imgsim_assets.encoders import hardware, recorded
from imgsim_assets.encoders.encoder import Encoder, load_encoder
from imgsim_assets.encoders.recorded import encoder_from_commit
from imgsim_assets.encoders.settings import EncoderSettings, EvaluationSettings
from imgsim_assets.encoders.table import latest_embeddings
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.evaluation.operating_points import (
    BEST_DIFFERENT,
    DIFFERENT_IMAGES,
    SCHEMA,
    THRESHOLDS,
)
from imgsim_assets.evaluation.stage import (
    EncoderEvaluation,
    EvaluationStage,
)
from imgsim_assets.images.perturbations import PERTURBATIONS
from imgsim_assets.similarity.evaluation_table import evaluation_table
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import (
    THUMBNAIL,
    embed_shards,
    fill,
    sha256_of,
    tiny,
)
from imgsim_assets_tests.support.damage import flip_bit, remove_blob
from imgsim_assets_tests.support.encoders import COUNTER, encoded_count
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.tables import latest_commit
from imgsim_assets_tests.support.weights import save_weights, save_zero_weights, untrained

HOG_COLOR = EncoderSettings(name="hog_color")
SETTINGS = EvaluationSettings(sample_size=6)
IMAGES: dict[str, bytes | None] = {f"item{seed:02d}": jpeg(seed) for seed in range(24)}


def test_recall_falls_with_threshold(store: Store) -> None:
    evaluation = _evaluate(store, HOG_COLOR)

    assert set(evaluation.recall) == set(PERTURBATIONS)
    assert evaluation.recall["recompress"] == 1.0
    at_the_top = evaluation.rows.filter(pl.col("threshold") == 0.95)
    recall_at_top = dict(at_the_top.select("perturbation", "recall").iter_rows())
    assert recall_at_top["recompress"] > recall_at_top["pad"]
    for perturbation in (*PERTURBATIONS, DIFFERENT_IMAGES, BEST_DIFFERENT):
        falling = evaluation.rows.filter(pl.col("perturbation") == perturbation).sort("threshold")[
            "recall"
        ]
        assert falling.is_sorted(descending=True)
        assert len(falling) == len(THRESHOLDS)
    assert evaluation.rows.schema == SCHEMA


def test_null_distribution_has_all_pairs_of_different_images(store: Store) -> None:
    embed_shards(
        store, "shop", HOG_COLOR, fill(store, "shop", {**IMAGES, "again": IMAGES["item00"]})
    )

    evaluation = EvaluationStage(store, "shop", SETTINGS).run()

    assert evaluation.images == 24
    assert evaluation.pairs == sum(evaluation.null_counts) == 24 * 23 // 2


def test_every_item_has_one_best_different_item(store: Store) -> None:
    embed_shards(
        store, "shop", HOG_COLOR, fill(store, "shop", {**IMAGES, "again": IMAGES["item00"]})
    )

    evaluation = EvaluationStage(store, "shop", SETTINGS).run()

    best = evaluation.rows.filter(perturbation=BEST_DIFFERENT)
    assert (evaluation.items, best["count"].to_list()) == (25, [25] * len(THRESHOLDS))
    # The copy of item00 is no false match.
    assert best.filter(threshold=1.0)["recall"].to_list() == [0.0]


def test_small_catalog_uses_threshold_of_encoder(store: Store) -> None:
    evaluation = _evaluate(store, HOG_COLOR)

    assert (evaluation.is_measured, evaluation.threshold) == (False, 0.9)
    assert "24 items of shop, fewer than the 30" in evaluation.source


def test_large_catalog_has_a_measured_threshold(store: Store) -> None:
    images: dict[str, bytes | None] = {f"{n:03d}": tiny(n) for n in range(40)}
    embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", images))

    evaluation = EvaluationStage(store, "shop", SETTINGS, THUMBNAIL).run()

    low, high = evaluation.interval
    assert evaluation.is_measured
    assert low <= evaluation.threshold <= high
    assert evaluation.false_best_matches == 0.0
    assert evaluation.source == (
        "auto: at most 1 % of the items get a false match, as measured on 40 items of shop"
    )


def test_changed_items_keep_the_recall_of_the_same_copies(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _evaluate(store, THUMBNAIL)
    monkeypatch.setenv(COUNTER, str(tmp_path / "encoded"))
    last = max(IMAGES, key=lambda item: sha256_of(IMAGES[item] or b""))
    fewer = {item: data for item, data in IMAGES.items() if item != last}
    embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", fewer))

    again = EvaluationStage(store, "shop", SETTINGS, THUMBNAIL).run()

    assert (again.changed, again.items, again.pairs) == (True, 23, 23 * 22 // 2)
    assert again.recall == first.recall
    assert encoded_count(tmp_path / "encoded") == 0


def test_unchanged_catalog_is_not_evaluated_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _evaluate(store, THUMBNAIL)
    monkeypatch.setenv(COUNTER, str(tmp_path / "encoded"))

    again = EvaluationStage(store, "shop", SETTINGS).run()
    smaller = SETTINGS.model_copy(update={"sample_size": 2})
    other = EvaluationStage(store, "shop", smaller, THUMBNAIL).run()

    assert (again.version, again.changed) == (first.version, False)
    assert again.rows.equals(first.rows)
    assert (other.version, other.changed) == (first.version + 1, True)
    assert encoded_count(tmp_path / "encoded") == 2 * len(PERTURBATIONS)


def test_evaluation_uses_declared_device_and_weights(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda: False)
    weights = tmp_path / "first.pth"
    first = _squeezenet(save_weights(untrained("squeezenet1_1"), weights))
    embed_shards(store, "shop", first, fill(store, "shop", IMAGES))
    moved = str(weights.rename(tmp_path / "moved.pth"))
    taken: list[EncoderSettings] = []

    def load(settings: EncoderSettings) -> Encoder:
        taken.append(settings)
        return load_encoder(settings)

    monkeypatch.setattr(recorded, "load_encoder", load)
    # The current resolution of `auto` must not matter.
    monkeypatch.setattr(hardware, "has_bf16", lambda: True)

    evaluation = EvaluationStage(store, "shop", SETTINGS, _squeezenet(moved)).run()

    # To an untrained network nearly all images are similar.
    low = evaluation.rows.filter(perturbation="recompress", threshold=0.7)
    assert low["recall"].to_list() == [1.0]
    assert [(each.weights, each.device, each.precision) for each in taken] == [
        (moved, "cpu", "fp32")
    ]
    assert encoder_from_commit(latest_embeddings(store, "shop")).weights == str(weights)


def test_other_encoder_is_rejected_before_loading(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", IMAGES))
    declared = _squeezenet(save_zero_weights("squeezenet1_1", tmp_path / "own.pth"))
    monkeypatch.setattr(recorded, "load_encoder", pytest.fail)

    with pytest.raises(
        StoreError, match="the vectors of shop were not made by the encoder squeezenet1_1"
    ):
        EvaluationStage(store, "shop", SETTINGS, declared).run()


def test_lost_image_stops_the_evaluation_and_is_marked_to_be_fetched(store: Store) -> None:
    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", IMAGES))
    lost = min(sha256_of(data) for data in IMAGES.values() if data is not None)
    remove_blob(store, lost)

    with pytest.raises(CorruptFileError, match=f"{lost}.*next run of the images"):
        EvaluationStage(store, "shop", SETTINGS).run()

    assert store.blobs.missing() == {lost}


def test_damaged_evaluation_is_measured_again(store: Store) -> None:
    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", IMAGES))
    before = EvaluationStage(store, "shop", SETTINGS).run()
    table = evaluation_table(store, "shop")
    flip_bit(store, table, latest_commit(table).files[0])

    again = EvaluationStage(store, "shop", SETTINGS).run()

    assert again.changed
    assert again.rows.equals(before.rows)


def test_label_scores_are_precision_and_map(store: Store) -> None:
    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", IMAGES))
    _label(store, {item: f"kind{number % 3}" for number, item in enumerate(IMAGES)})
    mixed = (
        EvaluationStage(store, "shop", EvaluationSettings(sample_size=1, label="kind")).run().labels
    )
    _label(store, dict.fromkeys(IMAGES, "all the same"))
    same = (
        EvaluationStage(store, "shop", EvaluationSettings(sample_size=1, label="kind")).run().labels
    )
    _label(store, {item: item for item in IMAGES})
    alone = (
        EvaluationStage(store, "shop", EvaluationSettings(sample_size=1, label="kind")).run().labels
    )

    assert mixed is not None
    assert same is not None
    assert mixed.images == 24
    assert 0 < mixed.mean_average_precision < 1
    scores = (same.precision_at_1, same.precision_at_10, same.mean_average_precision)
    assert scores == (1.0, 1.0, 1.0)
    assert alone is None


def test_missing_label_column_is_rejected_with_existing_columns(store: Store) -> None:
    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", IMAGES))
    _label(store, dict.fromkeys(IMAGES, "x"))

    with pytest.raises(StoreError, match=r"no column 'brand'; it has id, kind"):
        EvaluationStage(store, "shop", EvaluationSettings(label="brand")).run()


def test_evaluation_without_embeddings_names_the_asset(store: Store) -> None:
    with pytest.raises(StoreError, match="shop/embeddings has no version yet"):
        EvaluationStage(store, "shop", SETTINGS).run()


def test_catalog_of_one_or_no_image_can_be_evaluated(store: Store) -> None:
    one = {"a": IMAGES["item00"]}
    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", one))
    evaluation = EvaluationStage(store, "shop", SETTINGS).run()
    assert (evaluation.images, evaluation.pairs, evaluation.is_measured) == (1, 0, False)

    embed_shards(store, "none", HOG_COLOR, fill(store, "none", {"a": None}))
    empty = EvaluationStage(store, "none", SETTINGS).run()
    assert (empty.images, empty.pairs, empty.is_measured) == (0, 0, False)
    assert evaluation_table(store, "none").latest() is not None


def _squeezenet(weights: str) -> EncoderSettings:
    return EncoderSettings(name="squeezenet1_1", weights=weights, device="cpu")


def _evaluate(
    store: Store,
    encoder: EncoderSettings,
    settings: EvaluationSettings = SETTINGS,
    name: str = "shop",
) -> EncoderEvaluation:
    embed_shards(store, name, encoder, fill(store, name, IMAGES))
    evaluation = EvaluationStage(store, name, settings, encoder).run()
    assert np.isfinite(evaluation.rows["recall"].to_numpy()).all()
    return evaluation


def _label(store: Store, labels: dict[str, str]) -> None:
    table = items_table(store, "shop")
    file = table.write_rows(pl.DataFrame({"id": list(labels), "kind": list(labels.values())}))
    table.commit(lambda _: PendingCommit([file]))
