"""`imgsim recommend-threshold`, and `imgsim match --threshold auto`."""

from __future__ import annotations

import pytest

from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.shell import Shell
from imgsim_assets_tests.support.shop import versions
from imgsim_assets_tests.support.weights import save_weights, untrained

HOG_COLOR = EncoderSettings(name="hog_color")


@pytest.fixture
def shop(shell: Shell) -> Shell:
    """Two catalogs of twelve different images each."""
    for name, first in (("products", 0), ("suppliers", 8)):
        images = {f"{n:02d}": jpeg(n) for n in range(first, first + 12)}
        indexed(shell.store, name, images, HOG_COLOR)
    return shell


def test_recommendation_is_shown_beside_other_thresholds(shop: Shell) -> None:
    printed = shop("recommend-threshold", "products", "--false-positives-per-million", "50000")
    before = versions(shop.store)
    result = shop(
        "recommend-threshold", "products", "--false-positives-per-million", "50000", "--json"
    )

    assert (printed.code, result.code) == (0, 0), printed.err
    (recommendation,) = result.json["catalogs"]
    assert recommendation["threshold"] == result.json["threshold"] < 0.9
    assert (recommendation["images"], recommendation["pairs"]) == (12, 66)
    assert recommendation["recall"]["recompress"] == 1.0
    assert len(recommendation["operating_points"]) == 101
    assert "12 images by hog_color, 66 pairs" in printed.out
    assert f"{result.json['threshold']:g} is the lowest threshold within 50000 false" in printed.out
    assert "recompress 100%" in printed.out
    assert versions(shop.store) == before


def test_catalog_too_small_for_the_budget_gets_the_default_threshold(shop: Shell) -> None:
    printed = shop("recommend-threshold", "products")

    assert "too few pairs to show that there are at most 100 false matches" in printed.out
    assert "0.9 is the encoder's recommended threshold" in printed.out


def test_stricter_threshold_of_two_catalogs_is_recommended(shop: Shell) -> None:
    arguments = (
        "recommend-threshold",
        "products",
        "suppliers",
        "--false-positives-per-million",
        "50000",
    )

    result = shop(*arguments, "--json")
    printed = shop(*arguments)

    thresholds = [recommendation["threshold"] for recommendation in result.json["catalogs"]]
    assert thresholds[0] != thresholds[1]
    assert result.json["threshold"] == max(thresholds)
    assert f"to match products with suppliers: {max(thresholds):g}" in printed.out


def test_failed_recommendation_reports_the_reason(shop: Shell) -> None:
    indexed(shop.store, "thumbnails", {"a": jpeg(1)}, THUMBNAIL)

    unknown = shop("recommend-threshold", "shoes")
    mixed = shop("recommend-threshold", "products", "thumbnails")
    invalid = shop("recommend-threshold", "products", "--false-positives-per-million", "0")

    assert (unknown.code, mixed.code, invalid.code) == (1, 1, 2)
    assert "shoes/embeddings has no version yet" in unknown.err
    assert "the vectors cannot be compared" in mixed.err
    assert "--false-positives-per-million" in invalid.err


def test_weights_option_names_a_moved_weights_file(shell: Shell) -> None:
    weights = shell.folder / "first.pth"
    encoder = EncoderSettings(
        name="squeezenet1_1",
        weights=save_weights(untrained("squeezenet1_1"), weights),
        device="cpu",
    )
    indexed(shell.store, "products", {f"{n}": jpeg(n) for n in range(3)}, encoder)
    weights.rename(shell.folder / "moved.pth")
    save_weights(untrained("squeezenet1_1", seed=1), shell.folder / "other.pth")
    arguments = ("recommend-threshold", "products", "--device", "cpu", "--json")

    missing = shell(*arguments)
    other = shell(*arguments, "--weights", "other.pth")
    invalid = shell(*arguments[:2], "--device", "gpu")
    result = shell(*arguments, "--weights", "moved.pth")

    assert (missing.code, other.code, invalid.code, result.code) == (1, 1, 2, 0), result.err
    assert (
        f"weights: {weights}, with which the vectors of products were made, is not" in missing.err
    )
    assert "the vectors of products were not made by the encoder" in other.err
    assert "'gpu' is not one of auto, cpu, cuda" in invalid.err
    assert result.json["catalogs"][0]["recall"]["recompress"] == 1.0


def test_catalog_without_images_gets_the_default_threshold(shell: Shell) -> None:
    indexed(shell.store, "empty", {"gone": None}, HOG_COLOR)

    result = shell("recommend-threshold", "empty", "--json")
    printed = shell("recommend-threshold", "empty")

    assert (result.code, printed.code) == (0, 0), printed.err
    assert result.json["threshold"] == 0.9
    assert result.json["catalogs"][0]["pairs"] == 0


def test_match_with_threshold_auto_uses_the_evaluation(shell: Shell) -> None:
    for seed in range(12):
        shell.write(f"{seed}.jpg", jpeg(seed))
    lines = [f"{seed},{seed}.jpg" for seed in range(12)]
    shell.write("list.csv", "\n".join(["id,url", *lines]) + "\n")
    arguments = ("match", "list.csv", "list.csv", "--encoder", "hog_color", "--threshold", "auto")

    without = shell(*arguments)
    (catalog,) = shell("status", "--json").json["catalogs"]
    recommended = shell("recommend-threshold", catalog["name"], "--json")
    result = shell(*arguments, "--json")

    assert without.code == 1
    assert f"imgsim recommend-threshold {catalog['name']}" in without.err
    assert result.code == 0, result.err
    assert result.json["threshold"] == recommended.json["threshold"]
    assert len(result.json["matches"]) == 12
