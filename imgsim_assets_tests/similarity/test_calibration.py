"""Stored thresholds of a catalog: when they move, and when they stay."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from imgsim_assets.encoders.recorded import FINGERPRINT, to_metadata
from imgsim_assets.encoders.settings import EncoderSettings, EvaluationSettings
from imgsim_assets.reviews.table import SCHEMA, add_reviews
from imgsim_assets.similarity.calibration import (
    Calibration,
    CatalogItems,
    calibrate,
    calibration_table,
)
from imgsim_assets.similarity.evaluation_table import evaluation_table
from imgsim_assets.similarity.evidence.table import FeatureTable
from imgsim_assets.similarity.items import Items, from_index
from imgsim_assets.similarity.matches import MatchStage, match_table
from imgsim_assets.similarity.settings import MatchSettings
from imgsim_assets.similarity.threshold import ResolvedThreshold, resolve_threshold
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, tiny
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.scenes import jpeg, png, scene
from imgsim_assets_tests.support.tables import latest_commit

ENCODER = EncoderSettings(name="resnet50")


def _catalog(count: int, name: str = "shop", *, seed: int = 0, spread: float = 1.0) -> CatalogItems:
    """Images at random around one direction; the smaller the spread, the more similar."""
    rows = np.random.default_rng(seed).standard_normal((count, 6)) * spread + [1, 0, 0, 0, 0, 0]
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    ids = [f"{row:05d}" for row in range(count)]
    keys = pl.DataFrame({"id": ids, "sha256": [f"{seed}-{row}" for row in ids]})
    properties = {FINGERPRINT: "f", "encoder": to_metadata(ENCODER)}
    return CatalogItems(
        name,
        Commit(f"{name}/embeddings", 1, (), "now", properties=properties),
        Items(keys, vectors),
    )


def _calibrate(store: Store, catalog: CatalogItems, *, remeasure: bool = True) -> Calibration:
    return calibrate(store, catalog, 0.05, remeasure=remeasure)


def test_one_new_item_does_not_move_the_threshold(store: Store) -> None:
    before = _calibrate(store, _catalog(200))

    after = [_calibrate(store, _catalog(count)) for count in (201, 205, 220)]

    assert all(each.changed for each in after)
    assert {each.threshold(256) for each in after} == {before.threshold(256)}
    assert {each.items for each in after} == {201, 205, 220}
    assert all(each.rows.equals(before.rows) for each in after)


def test_threshold_outside_of_the_interval_replaces_the_stored_one(store: Store) -> None:
    before = _calibrate(store, _catalog(200))

    after = _calibrate(store, _catalog(200, seed=1, spread=0.2))

    low, high = before.interval()
    assert low <= before.threshold() <= high
    assert not low <= after.threshold() <= high
    assert _calibrate(store, _catalog(200, seed=1, spread=0.2)).changed is False


def test_stored_threshold_serves_until_a_tenth_of_the_images_has_changed(store: Store) -> None:
    before = _calibrate(store, _catalog(200))

    near = _calibrate(store, _catalog(219), remeasure=False)
    far = _calibrate(store, _catalog(221), remeasure=False)

    assert (near.changed, near.items, near.data_version) == (False, 200, before.data_version)
    assert (far.changed, far.items) == (True, 221)


def test_unchanged_items_commit_nothing_and_rebuild_gives_the_same(
    store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = _calibrate(store, _catalog(60))
    again = _calibrate(store, _catalog(60))
    rebuilt = _calibrate(Store.open(tmp_path_factory.mktemp("other") / "store"), _catalog(60))

    assert (first.changed, again.changed) == (True, False)
    assert first.rows.equals(again.rows)
    assert first.rows.equals(rebuilt.rows)


def test_budgets_have_thresholds_of_their_own(store: Store) -> None:
    generous = calibrate(store, _catalog(60), 0.2)
    strict = calibrate(store, _catalog(60), 0.01)

    assert generous.threshold() < strict.threshold()
    assert calibrate(store, _catalog(60), 0.2).changed is False
    assert store.table_names() == ["shop/threshold", "shop/threshold.0.2"]


def test_damaged_or_foreign_calibration_is_measured_again(store: Store) -> None:
    first = _calibrate(store, _catalog(60))
    table = calibration_table(store, "shop", 0.05)
    flip_bit(store, table, latest_commit(table).files[0])

    repaired = _calibrate(store, _catalog(60))
    other = _catalog(60)
    properties = {**other.commit.properties, FINGERPRINT: "another"}
    commit = Commit("shop/embeddings", 2, (), "now", properties=properties)
    foreign = _calibrate(store, other._replace(commit=commit))

    assert repaired.changed
    assert repaired.rows.equals(first.rows)
    assert foreign.changed


def _with_twins(count: int) -> CatalogItems:
    """Each item has a twin that is nearly as similar as can be."""
    catalog = _catalog(count)
    twins = np.concatenate([catalog.items.vectors, catalog.items.vectors + np.float32(1e-3)])
    twins /= np.linalg.norm(twins, axis=1, keepdims=True)
    ids = [f"{row:05d}" for row in range(2 * count)]
    return catalog._replace(items=Items(pl.DataFrame({"id": ids, "sha256": ids}), twins))


def _judge(store: Store, name: str, verdict: str, count: int, second: int) -> None:
    """Judge the images of the first items and their twins, of 100 each."""
    rows = [
        {
            # Ids of another catalog: what was judged are the images.
            "left_id": f"x{row}",
            "right_id": f"y{row}",
            "left_sha256": f"{row + 100:05d}",
            "right_sha256": f"{row:05d}",
            "verdict": verdict,
            "reviewer": "a",
            "note": None,
            "decided_at": datetime(2030, 1, 1, 0, 0, second, tzinfo=UTC),
        }
        for row in range(count)
    ]
    add_reviews(store.table(f"reviews/{name}"), pl.DataFrame(rows, schema=SCHEMA))


def test_items_that_were_judged_a_match_lower_the_threshold(store: Store) -> None:
    catalog = _with_twins(100)

    unknown = _calibrate(store, catalog)
    _judge(store, "pair", "match", 100, 1)
    known = _calibrate(store, catalog)
    again = _calibrate(store, catalog)
    served = _calibrate(store, catalog, remeasure=False)
    _judge(store, "groups/shop", "cleared", 100, 2)
    cleared = _calibrate(store, catalog)

    assert known.threshold() < unknown.threshold() == cleared.threshold()
    assert (known.changed, again.changed, served.changed) == (True, False, False)


def test_few_judged_items_within_the_interval_change_no_threshold(store: Store) -> None:
    catalog = _with_twins(100)
    before = _calibrate(store, catalog)
    _judge(store, "pair", "match", 1, 1)

    after = _calibrate(store, catalog)

    assert after.changed
    assert after.data_version == before.data_version


def test_items_whose_images_align_lower_the_threshold(store: Store) -> None:
    """A shop of 40 products and a recompressed copy of each."""
    originals = {f"p{seed}": scene(seed, (160, 120), 60) for seed in range(40)}
    files = {item: png(image) for item, image in originals.items()}
    files |= {f"{item} copy": jpeg(image, 60) for item, image in originals.items()}
    indexed(store, "shop", files, EncoderSettings(name="hog_color"))
    catalog = CatalogItems("shop", *from_index(store, "shop"))

    plain = calibrate(store, catalog, 0.05)
    with_evidence = calibrate(store, catalog, 0.05, evidence=True)
    again = calibrate(store, catalog, 0.05, evidence=True, remeasure=True)

    assert with_evidence.threshold() < plain.threshold()
    assert again.changed is False
    assert calibrate(store, catalog, 0.05, remeasure=True).threshold() == plain.threshold()


def test_declared_evaluation_with_evidence_decides_automatic_thresholds(store: Store) -> None:
    catalog = _catalog(60)
    table = evaluation_table(store, "shop")
    settings = EvaluationSettings(evidence=True).model_dump(mode="json")
    table.commit(lambda _: PendingCommit([], {}, {"settings": settings}))
    # Images that cannot be decoded align with none.
    features = FeatureTable(store)
    features.append(features.write(dict.fromkeys(catalog.items.keys["sha256"])))

    _resolve(store, "auto", catalog)

    assert store.table("shop/threshold.0.05.evidence").latest() is not None
    assert store.table("shop/threshold.0.05").latest() is None


def test_one_new_item_updates_a_match_table_with_threshold_auto(store: Store) -> None:
    unmeasured = THUMBNAIL.model_copy(update={"threshold": None})
    images: dict[str, bytes | None] = {f"{n:03d}": tiny(n) for n in range(60)}
    copies: dict[str, bytes | None] = {f"{n:03d}": tiny(500 + n, like=n) for n in range(40)}
    indexed(store, "left", images, unmeasured)
    indexed(store, "right", copies, unmeasured)
    stage = MatchStage(store, "pair", MatchSettings(), left="left", right="right")
    before = stage.run()
    indexed(store, "left", {**images, "060": tiny(60)}, unmeasured)

    after = stage.run()

    rebuilt = MatchStage(store, "again", MatchSettings(), left="left", right="right").run()
    assert before.threshold_source.startswith("auto: at most 1 % of the items")
    assert (after.threshold, after.incremental, after.changed) == (before.threshold, True, True)
    assert after.matches == before.matches == 40
    rows = [
        table.read(latest_commit(table))
        for table in (match_table(store, name) for name in ("pair", "again"))
    ]
    assert rows[0].equals(rows[1])
    assert rebuilt.threshold == after.threshold


def _resolve(
    store: Store, threshold: float | str | None, *catalogs: CatalogItems, searched: int = 60
) -> ResolvedThreshold:
    return resolve_threshold(store, threshold, 0.05, catalogs, searched=searched)  # type: ignore[arg-type]


def test_auto_is_the_strictest_of_the_measured_catalogs(store: Store) -> None:
    shop, strict = _catalog(60), _catalog(60, "other", spread=0.6)
    small = _catalog(5, "small", spread=0.01)

    both = _resolve(store, "auto", shop, strict, small)

    alone = _resolve(store, "auto", strict)
    assert both.value == alone.value > _resolve(store, "auto", shop).value
    assert both.source == (
        "auto: at most 5 % of the items get a false match, as measured on 60 items of shop and "
        "60 items of other"
    )
    assert _resolve(store, "auto", strict, searched=10_000).value > alone.value


def test_encoder_without_recommended_threshold_is_measured_by_default(store: Store) -> None:
    shop = _catalog(60)

    assert _resolve(store, "recommended", shop) == _resolve(store, "auto", shop)


def test_recommended_and_declared_thresholds_measure_nothing(store: Store) -> None:
    shop = _catalog(60)
    hog = to_metadata(EncoderSettings(name="hog_color"))
    properties = {**shop.commit.properties, "encoder": hog}
    commit = Commit("shop/embeddings", 1, (), "now", properties=properties)
    of_hog = shop._replace(commit=commit)

    assert _resolve(store, "recommended", of_hog)[:2] == (0.9, "recommended for hog_color")
    assert _resolve(store, 0.5, shop)[:2] == (0.5, "declared")
    assert _resolve(store, None, shop)[:2] == (-1.0, "no lower bound")
    assert store.table_names() == []


def test_too_few_items_give_the_encoders_threshold_or_an_estimate(store: Store) -> None:
    few = _catalog(8)
    declared = to_metadata(ENCODER.model_copy(update={"threshold": 0.7}))
    properties = {**few.commit.properties, "encoder": declared}
    commit = Commit("shop/embeddings", 1, (), "now", properties=properties)

    estimate = _resolve(store, "auto", few)
    own = _resolve(store, "auto", few._replace(commit=commit))
    single = _resolve(store, "auto", _catalog(1, "single"))

    assert "8 items of shop, fewer than the 30 different items" in estimate.source
    assert "an estimate" in estimate.source
    assert estimate.value < 1
    assert own.value == 0.7
    assert single.value == 1.0
