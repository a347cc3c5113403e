"""`imgsim recommend-threshold`, and `imgsim match --threshold auto`."""

from __future__ import annotations

import re

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
    """A catalog of 40 images and one of 12."""
    for name, first, count in (("products", 0, 40), ("suppliers", 36, 12)):
        images = {f"{n:02d}": jpeg(n) for n in range(first, first + count)}
        indexed(shell.store, name, images, HOG_COLOR)
    return shell


def test_recommendation_is_shown_beside_other_thresholds(shop: Shell) -> None:
    printed = shop("recommend-threshold", "products", "--false-matches", "5%")
    before = versions(shop.store)
    result = shop("recommend-threshold", "products", "--false-matches", "0.05", "--json")

    assert (printed.code, result.code) == (0, 0), printed.err
    (recommendation,) = result.json["catalogs"]
    low, high = recommendation["interval"]
    assert low <= recommendation["threshold"] == result.json["threshold"] <= high
    assert (result.json["false_matches"], recommendation["items"]) == (0.05, 40)
    assert recommendation["recall"]["recompress"] == 1.0
    assert len(recommendation["operating_points"]) == 101
    assert "products: 40 items by hog_color" in printed.out
    assert f"threshold {result.json['threshold']:g} (between {low:g} and {high:g}" in printed.out
    assert "auto: at most 5 % of the items get a false match" in printed.out
    assert "recompress 100%" in printed.out
    assert versions(shop.store) == before


def test_catalog_too_small_for_the_budget_gets_the_threshold_of_the_encoder(shop: Shell) -> None:
    printed = shop("recommend-threshold", "suppliers")

    assert "threshold 0.9\n" in printed.out
    assert re.search(r"measured on the catalog: [\d.]+ \(between [\d.]+ and ", printed.out)
    assert "12 items of suppliers, fewer than the 30 different items" in printed.out
    assert "recommended for hog_color" in printed.out


def test_stricter_threshold_of_two_catalogs_is_recommended(shop: Shell) -> None:
    arguments = ("recommend-threshold", "products", "suppliers", "--false-matches", "2%")

    result = shop(*arguments, "--json")
    printed = shop(*arguments)

    thresholds = [recommendation["threshold"] for recommendation in result.json["catalogs"]]
    assert result.json["threshold"] == max(thresholds)
    assert f"to match products with suppliers: {max(thresholds):g}" in printed.out


def test_failed_recommendation_reports_the_reason(shop: Shell) -> None:
    indexed(shop.store, "thumbnails", {"a": jpeg(1)}, THUMBNAIL)

    unknown = shop("recommend-threshold", "shoes")
    mixed = shop("recommend-threshold", "products", "thumbnails")
    invalid = shop("recommend-threshold", "products", "--false-matches", "0")

    assert (unknown.code, mixed.code, invalid.code) == (2, 1, 2)
    assert "has no catalog 'shoes'; it has " in unknown.err
    assert "the vectors cannot be compared" in mixed.err
    assert (
        "--false-matches: '0' is not a fraction above 0 and below 1; write 1% or 0.01"
        in invalid.err
    )


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
    # To an untrained network nearly all images are similar.
    points = result.json["catalogs"][0]["operating_points"]
    assert [point["recall"] > 0.9 for point in points if point["threshold"] == 0.5] == [True]


def test_catalog_without_images_gets_the_default_threshold(shell: Shell) -> None:
    indexed(shell.store, "empty", {"gone": None}, HOG_COLOR)

    result = shell("recommend-threshold", "empty", "--json")
    printed = shell("recommend-threshold", "empty")

    assert (result.code, printed.code) == (0, 0), printed.err
    assert result.json["threshold"] == 0.9
    assert result.json["catalogs"][0]["pairs"] == 0


def test_strict_measured_threshold_comes_with_a_hint(shell: Shell) -> None:
    for name in ("left", "right"):
        rows = []
        for seed in range(32):
            for copy in range(2):
                file = f"{seed}_{copy}.jpg"
                shell.write(file, jpeg(seed, quality=90 - 20 * copy))
                rows.append(f"{seed}_{copy},{file}")
        shell.write(f"{name}.csv", "\n".join(["id,url", *rows]) + "\n")
    arguments = ("match", "left.csv", "right.csv", "--encoder", "hog_color", "--threshold")

    strict = shell(*arguments, "auto")
    given = shell(*arguments, "0.99")
    catalog = shell("status", "--json").json["catalogs"][0]["name"]
    graph = shell("graph", catalog, "--threshold", "auto")

    assert "near copies make an automatic threshold stricter" in strict.out, strict.err
    assert "near copies make an automatic threshold stricter" in graph.out, graph.err
    assert "near copies" not in given.out


def test_match_measures_its_threshold_and_says_so(shell: Shell) -> None:
    for seed in range(36):
        shell.write(f"{seed}.jpg", jpeg(seed))
    lines = [f"{seed},{seed}.jpg" for seed in range(36)]
    for name in ("left.csv", "right.csv"):
        shell.write(name, "\n".join(["id,url", *lines]) + "\n")
    arguments = ("match", "left.csv", "right.csv", "--encoder", "hog_color", "--threshold", "auto")

    printed = shell(*arguments)
    result = shell(*arguments, "--json")
    declared = shell(*arguments[:-2])

    assert (printed.code, result.code) == (0, 0), printed.err
    names = [catalog["name"] for catalog in shell("status", "--json").json["catalogs"]]
    recommended = shell("recommend-threshold", *names, "--json")
    assert result.json["threshold"] == recommended.json["threshold"]
    assert len(result.json["matches"]) == 36
    said = (
        "auto: at most 1 % of the items get a false match, as measured on 36 items of "
        f"{names[0]} and 36 items of {names[1]}"
    )
    assert result.json["threshold_source"] == said
    assert f"threshold {said}" in printed.out
    assert "threshold recommended for hog_color" in declared.out
