"""The metadata of a match table: what is new, and what lies near the threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from PIL import Image, ImageOps

from imgsim_assets.components import columns
from imgsim_assets.components.match_matrix import summary
from imgsim_assets_tests.support.images import encoded, make_image
from imgsim_assets_tests.support.materialized_shops import MaterializedShops
from imgsim_assets_tests.support.scenes import jpeg, scene
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web

BEACON = "![t](http://127.0.0.1:9/b.png)"


@pytest.fixture
def shop(materialized_shops: MaterializedShops) -> Shop:
    return materialized_shops.restore(Shop.open)


def _metadata(shop: Shop) -> dict[str, Any]:
    return _latest(shop, "matches", "pair")


def _latest(shop: Shop, *path: str) -> dict[str, Any]:
    with shop.project.instance() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(path))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def _counts(metadata: dict[str, Any]) -> tuple[int, ...]:
    return tuple(metadata[f"{kind}_since_last_version"] for kind in ("added", "changed", "removed"))


def test_match_table_shows_what_the_last_version_changed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_SERVE_URL", "https://pages.example/imgsim/")
    rows = _metadata(shop)["dagster/row_count"]
    assert _counts(_metadata(shop)) == (rows, 0, 0)
    shop.web.pages["/again.jpg"] = encoded(make_image(2), "JPEG", quality=70)
    shop.put_item(BEACON, 900, path="/again.jpg")
    shop.remove_item("p1")
    assert shop.project.materialize()

    metadata = _metadata(shop)

    assert _counts(metadata) == (1, 0, 1)
    assert list(metadata).index("added_since_last_version") < list(metadata).index("seconds")
    assert metadata["device"] == "cpu"
    assert metadata["method"] == "exact"
    assert metadata["encoder"] == _latest(shop, "products", "index")["encoder"]
    assert "thumbnail" in metadata["encoder"]
    (new,) = (record.data for record in metadata["new_matches"].records)
    assert (new["left_id"], new["right_id"]) == (BEACON, "s2")
    assert new["left_title"] == f"item {BEACON}"
    assert new["left_url"] == shop.web.url("/again.jpg")
    assert metadata["new_match_1"].startswith("![left and right image of a new match](data:image")
    assert metadata["review_page"] == "https://pages.example/imgsim/review/pair"
    # Text of the catalog is in tables only, which Dagster does not render.
    texts = [value for value in metadata.values() if isinstance(value, str)]
    assert not [text for text in texts if "](http" in text]


def test_pairs_nearest_to_the_threshold_are_listed_from_both_sides(shop: Shop) -> None:
    metadata = _metadata(shop)

    above = [record.data["similarity"] for record in metadata["nearest_to_threshold"].records]
    below = [record.data["similarity"] for record in metadata["best_below_threshold"].records]
    assert above == sorted(above)
    assert min(above) >= 0.9
    assert below == sorted(below, reverse=True)
    assert max(below) < 0.9


def test_unchanged_match_table_keeps_its_metadata_and_reads_nothing_for_them(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _metadata(shop)
    monkeypatch.setattr(summary, "_pairs", lambda *_: pytest.fail("the tables are read"))

    assert shop.project.materialize()

    after = _metadata(shop)
    assert list(after) == list(before)
    differing = {name for name in before if before[name] != after[name]}
    assert differing <= {"changed", "seconds", "incremental", "device", "dagster/column_lineage"}


def test_match_table_with_evidence_counts_its_tiers(tmp_path: Path, web: Web) -> None:
    shop = Shop.open(tmp_path, web)
    same = encoded(scene(1), "PNG")
    web.pages |= {"/same.png": same, "/s1.jpg": same, "/s2.jpg": jpeg(scene(2))}
    web.pages |= {"/copy.jpg": jpeg(ImageOps.mirror(scene(2)))}
    for number, path in enumerate(("/same.png", "/copy.jpg")):
        shop.put_item(f"scene {number}", number, path=path)
    evidence = {"compute": True, "min_similarity": -1}
    shop.declare(pair={"evidence": evidence, "threshold": None})
    assert shop.project.materialize()

    metadata = _metadata(shop)

    counts = {record.data["tier"]: record.data["count"] for record in metadata["evidence"].records}
    assert (counts["same_bytes"], counts["similar"]) == (1, 0)
    assert counts["aligned"] >= 1
    assert sum(counts.values()) == metadata["dagster/row_count"]
    (preview,) = (record.data for record in metadata["nearest_to_threshold"].records[:1])
    assert {*columns.EVIDENCE} <= preview.keys()
    assert metadata["compared_pairs"] > 0
    assert "best_below_threshold" not in metadata
    assert metadata["best_without_evidence"].records


def test_match_table_over_orientations_finds_and_names_turned_copies(
    tmp_path: Path, web: Web
) -> None:
    shop = Shop.open(tmp_path, web)
    shop.declare(pair={"orientations": True, "threshold": 0.9})
    turned = make_image(2).transpose(Image.Transpose.ROTATE_90)
    web.pages["/turned.jpg"] = encoded(turned, "JPEG", quality=90)
    shop.put_item("turned", 900, path="/turned.jpg")
    assert shop.project.materialize()
    first = _metadata(shop)

    assert shop.project.materialize()

    found = {
        (record.data["left_id"], record.data["right_id"]): record.data["orientation"]
        for record in first["new_matches"].records
    }
    assert found["turned", "s2"] == "rotated_270"
    assert first["images_encoded_turned"] == first["left_images"]
    assert _metadata(shop)["images_encoded_turned"] == 0
