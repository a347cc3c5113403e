"""Defaults of duplicate groups on a shop of products that look alike."""

from __future__ import annotations

import math
import random
from functools import cache

import polars as pl
import pytest
from PIL import Image, ImageDraw

from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.similarity.duplicate_groups import GroupReport, GroupStage
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.settings import GroupSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed
from imgsim_assets_tests.support.scenes import jpeg

_PRODUCTS = 45


@cache
def _product(seed: int) -> Image.Image:
    """A cart on white: all have two wheels and a body, and each its own spokes, load and colors."""
    rng = random.Random(seed)
    image = Image.new("RGB", (320, 240), "white")
    draw = ImageDraw.Draw(image)
    size, spokes, turn = rng.randint(54, 72), rng.randint(4, 9), rng.random()
    for left in (40 + rng.randint(0, 8), 210 + rng.randint(0, 8)):
        draw.ellipse((left, 216 - size, left + size, 216), outline="black", width=rng.randint(4, 8))
        center = (left + size / 2, 216 - size / 2)
        for spoke in range(spokes):
            angle = 2 * math.pi * (spoke + turn) / spokes
            end = (center[0] + size / 2 * math.cos(angle), center[1] + size / 2 * math.sin(angle))
            draw.line((*center, *end), fill="black", width=2)
    draw.rectangle((60, 100 + rng.randint(0, 12), 265, 165), fill="darkslategray")
    for _ in range(40):
        x, y = rng.randint(65, 250), rng.randint(60, 150)
        color = tuple(rng.randint(0, 255) for _ in range(3))
        draw.rectangle((x, y, x + rng.randint(4, 22), y + rng.randint(4, 22)), fill=color)
    return image


@pytest.fixture
def shop(store: Store) -> Store:
    """Different products; the first three are there a second time, more strongly compressed."""
    files = {f"p{seed:02d}": jpeg(_product(seed), 92) for seed in range(_PRODUCTS)}
    files |= {f"p{seed:02d} copy": jpeg(_product(seed), 40) for seed in range(3)}
    indexed(store, "shop", files, EncoderSettings(name="hog_color"))
    return store


def _group(store: Store, variant: str, **settings: object) -> tuple[GroupReport, list[list[str]]]:
    declared = GroupSettings.model_validate(settings)
    stage = GroupStage(store, "shop", declared, variant=variant)
    report = stage.run()
    rows = stage.table.read(stage.table.at(report.version))
    groups = rows.group_by("group_id").agg(pl.col("id").sort())
    return report, sorted(groups["id"].to_list())


def test_products_that_look_alike_are_in_no_group_by_default(shop: Store) -> None:
    report, groups = _group(shop, "default")
    loose, _ = _group(shop, "loose", threshold=0.9)

    assert report.threshold_is_measured
    assert all(group[0] == group[-1].removesuffix(" copy") for group in groups)
    # A threshold that suits other images would delete half of the shop.
    assert loose.grouped > _PRODUCTS / 2


def test_evidence_groups_exactly_the_copies_by_default(shop: Store) -> None:
    _, groups = _group(shop, "evidence", evidence=EvidenceSettings(compute=True))

    assert groups == [[f"p{seed:02d}", f"p{seed:02d} copy"] for seed in range(3)]
