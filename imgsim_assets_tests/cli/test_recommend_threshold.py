"""`imgsim recommend-threshold`, and matches that go by it."""

from __future__ import annotations

import pytest

from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.shell import Shell
from imgsim_assets_tests.support.shop import versions
from imgsim_assets_tests.support.weights import saved, untrained

HOG_COLOR = EncoderSettings(name="hog_color")


@pytest.fixture
def shop(shell: Shell) -> Shell:
    """Two catalogs of twelve different images each."""
    for name, first in (("products", 0), ("suppliers", 8)):
        images = {f"{n:02d}": jpeg(n) for n in range(first, first + 12)}
        indexed(shell.store, name, images, HOG_COLOR)
    return shell


def test_the_advice_is_told_with_what_other_thresholds_give(shop: Shell) -> None:
    told = shop("recommend-threshold", "products", "--false-positives-per-million", "50000")
    before = versions(shop.store)
    ran = shop(
        "recommend-threshold", "products", "--false-positives-per-million", "50000", "--json"
    )

    assert (told.code, ran.code) == (0, 0), told.err
    (advice,) = ran.json["catalogs"]
    assert advice["threshold"] == ran.json["threshold"] < 0.9
    assert (advice["images"], advice["pairs"]) == (12, 66)
    assert advice["recall"]["recompress"] == 1.0
    assert len(advice["choices"]) == 101
    assert "12 images by hog_color, 66 pairs" in told.out
    assert f"{ran.json['threshold']:g} is the lowest threshold within 50000 false" in told.out
    assert "recompress 100%" in told.out
    assert versions(shop.store) == before


def test_a_catalog_too_small_for_the_budget_says_so(shop: Shell) -> None:
    told = shop("recommend-threshold", "products")

    assert "too few pairs to show that there are at most 100 false matches" in told.out
    assert "0.9 is the encoder's default threshold" in told.out


def test_of_two_catalogs_the_stricter_counts(shop: Shell) -> None:
    asked = (
        "recommend-threshold",
        "products",
        "suppliers",
        "--false-positives-per-million",
        "50000",
    )

    ran = shop(*asked, "--json")
    told = shop(*asked)

    thresholds = [advice["threshold"] for advice in ran.json["catalogs"]]
    assert thresholds[0] != thresholds[1]
    assert ran.json["threshold"] == max(thresholds)
    assert f"to match products with suppliers: {max(thresholds):g}" in told.out


def test_what_cannot_be_advised_on_says_why(shop: Shell) -> None:
    indexed(shop.store, "thumbnails", {"a": jpeg(1)}, THUMBNAIL)

    unknown = shop("recommend-threshold", "shoes")
    mixed = shop("recommend-threshold", "products", "thumbnails")
    wrong = shop("recommend-threshold", "products", "--false-positives-per-million", "0")

    assert (unknown.code, mixed.code, wrong.code) == (1, 1, 2)
    assert "shoes/embeddings has no version yet" in unknown.err
    assert "vectors that cannot be compared" in mixed.err
    assert "--false-positives-per-million" in wrong.err


def test_a_weights_file_that_was_moved_can_be_named(shell: Shell) -> None:
    weights = shell.folder / "first.pth"
    encoder = EncoderSettings(
        name="squeezenet1_1", weights=saved(untrained("squeezenet1_1"), weights), device="cpu"
    )
    indexed(shell.store, "products", {f"{n}": jpeg(n) for n in range(3)}, encoder)
    weights.rename(shell.folder / "moved.pth")
    saved(untrained("squeezenet1_1", seed=1), shell.folder / "other.pth")
    asked = ("recommend-threshold", "products", "--device", "cpu", "--json")

    gone = shell(*asked)
    other = shell(*asked, "--weights", "other.pth")
    wrong = shell(*asked[:2], "--device", "gpu")
    ran = shell(*asked, "--weights", "moved.pth")

    assert (gone.code, other.code, wrong.code, ran.code) == (1, 1, 2, 0), ran.err
    assert f"weights: {weights}, with which the vectors of products were made, is not" in gone.err
    assert "the vectors of products were not made by the encoder" in other.err
    assert "'gpu' is not one of auto, cpu, cuda" in wrong.err
    assert ran.json["catalogs"][0]["recall"]["recompress"] == 1.0


def test_without_a_single_image_the_encoders_threshold_stands(shell: Shell) -> None:
    indexed(shell.store, "empty", {"gone": None}, HOG_COLOR)

    ran = shell("recommend-threshold", "empty", "--json")
    told = shell("recommend-threshold", "empty")

    assert (ran.code, told.code) == (0, 0), told.err
    assert ran.json["threshold"] == 0.9
    assert ran.json["catalogs"][0]["pairs"] == 0


def test_a_match_goes_by_the_report(shell: Shell) -> None:
    for seed in range(12):
        shell.write(f"{seed}.jpg", jpeg(seed))
    lines = [f"{seed},{seed}.jpg" for seed in range(12)]
    shell.write("list.csv", "\n".join(["id,url", *lines]) + "\n")
    asked = ("match", "list.csv", "list.csv", "--encoder", "hog_color", "--threshold", "auto")

    without = shell(*asked)
    (catalog,) = shell("status", "--json").json["catalogs"]
    advised = shell("recommend-threshold", catalog["name"], "--json")
    ran = shell(*asked, "--json")

    assert without.code == 1
    assert f"imgsim recommend-threshold {catalog['name']}" in without.err
    assert ran.code == 0, ran.err
    assert ran.json["threshold"] == advised.json["threshold"]
    assert len(ran.json["matches"]) == 12
