from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from imgsim_assets.errors import StoreError
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.group_tables import cross_catalog_groups_table, groups_table
from imgsim_assets.similarity.settings import CrossCatalogGroupSettings, GroupSettings
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, embed_shards, indexed, tiny
from imgsim_assets_tests.support.downloads import NAME, Catalog
from imgsim_assets_tests.support.images import encoded, jpeg, make_image


def photo() -> Image.Image:
    """An image with the noise of a camera, which JPEG makes smaller than PNG."""
    noise = Image.effect_noise((160, 120), 60)
    return Image.blend(make_image(1), noise.convert("RGB"), 0.3)


def test_png_is_canonical_before_a_smaller_jpeg_of_its_size(store: Store, tmp_path: Path) -> None:
    image = photo()
    files = {"a.jpg": encoded(image, quality=15), "b.png": encoded(image, "PNG")}

    rows = _groups(store, tmp_path, files)

    assert rows.filter("is_canonical")["id"].to_list() == ["b.png"]
    assert rows.select("id", "keep").rows() == [("b.png", True), ("a.jpg", False)]


def test_next_rule_decides_among_equals_and_then_the_id(store: Store, tmp_path: Path) -> None:
    image = photo()
    wide = encoded(image.resize((320, 240)), quality=15)
    png = encoded(image, "PNG")

    rows = _groups(store, tmp_path, {"c.png": png, "b.png": png, "wide.jpg": wide})
    by_file = _groups(
        store, tmp_path, {"c.png": png, "b.png": png, "wide.jpg": wide}, canonical=["largest_file"]
    )

    assert rows.filter("is_canonical")["id"].to_list() == ["wide.jpg"]
    assert by_file.filter("is_canonical")["id"].to_list() == ["b.png"]


@pytest.mark.parametrize("entry", ["master", "master/", "./master", "{root}/master"])
def test_items_of_a_protected_folder_are_canonical_and_always_kept(
    store: Store, tmp_path: Path, entry: str
) -> None:
    small, large = jpeg(1, quality=15), jpeg(1, quality=95)
    files = {"a.jpg": large, "master/x.jpg": small, "master/y.jpg": small, "masterful.jpg": large}

    rows = _groups(store, tmp_path, files, keep=[entry.format(root=tmp_path)])

    assert rows.select("id", "is_canonical", "keep").sort("id").rows() == [
        ("a.jpg", False, False),
        ("master/x.jpg", True, True),
        ("master/y.jpg", False, True),
        ("masterful.jpg", False, False),
    ]


def test_protected_link_is_kept_with_the_image_that_it_leads_to(
    store: Store, tmp_path: Path
) -> None:
    files = {"raw/a.jpg": jpeg(1), "raw/large.jpg": jpeg(1, quality=95)}
    (tmp_path / "master").mkdir()
    (tmp_path / "master" / "a.jpg").symlink_to("../raw/a.jpg")

    rows = _groups(store, tmp_path, files, keep=["master"], links=["master/a.jpg"])

    assert rows.select("id", "is_canonical", "keep").sort("id").rows() == [
        ("master/a.jpg", False, True),
        ("raw/a.jpg", True, True),
        ("raw/large.jpg", False, False),
    ]


def test_protected_catalog_is_canonical_before_the_order_of_catalogs(store: Store) -> None:
    for name in ("ours", "theirs"):
        indexed(store, name, {"1": tiny(1)})

    settings = CrossCatalogGroupSettings(threshold=0.9, keep=("theirs",))
    GroupStage(store, "all", settings, catalogs=["ours", "theirs"]).run()

    table = cross_catalog_groups_table(store, "all")
    commit = table.latest()
    assert commit is not None
    assert table.read(commit).select("catalog", "keep").rows() == [
        ("theirs", True),
        ("ours", False),
    ]


def test_keep_that_protects_nothing_is_an_error(store: Store, tmp_path: Path) -> None:
    message = r"keep: no image is in 'mastr', .* such as 'a.jpg' or '.*/a.jpg'"
    with pytest.raises(StoreError, match=message):
        _groups(store, tmp_path, {"a.jpg": jpeg(1)}, keep=["mastr"])


def _groups(
    store: Store,
    folder: Path,
    files: dict[str, bytes],
    *,
    keep: Sequence[str] = (),
    links: Sequence[str] = (),
    canonical: Sequence[str] = GroupSettings().canonical,
) -> pl.DataFrame:
    """The groups of files and links in a folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    catalog = Catalog(store, folder)
    catalog.declare({path: path for path in (*files, *links)})
    catalog.run()
    embed_shards(store, NAME, THUMBNAIL, [Shard(0, 1)])
    IndexStage(store, NAME).run()
    settings = GroupSettings.model_validate(
        {"threshold": 0.9, "keep": keep, "canonical": canonical}
    )
    GroupStage(store, NAME, settings).run()
    table = groups_table(store, NAME)
    commit = table.latest()
    assert commit is not None
    return table.read(commit)
