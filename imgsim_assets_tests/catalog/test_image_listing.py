from __future__ import annotations

import os
from pathlib import Path

import pytest

from imgsim_assets.catalog.reader import read_source
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import open_source
from imgsim_assets.catalog.stage import ItemsStage
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.stage import ImagesStage
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.images import encoded, jpeg, make_image


def listed(folder: Path) -> list[str]:
    source = open_source(SourceSettings(path=str(folder)), folder)
    return [file.name for file in source.files]


def notices(folder: Path) -> list[str]:
    source = open_source(SourceSettings(path=str(folder)), folder)
    return list(source.notices)


@pytest.mark.parametrize("name", ["a.psd", "a.NEF", "a.svg", "a.jxl", "a.ico", "a.dng", "a.ppm"])
def test_suffix_of_any_image_format_is_a_row(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"whatever")

    assert listed(tmp_path) == [name]
    assert notices(tmp_path) == []


def test_signature_of_an_image_format_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "no_suffix").write_bytes(jpeg(1))
    (tmp_path / "a.bin").write_bytes(encoded(make_image(1), "PNG"))
    (tmp_path / "photoshop.dat").write_bytes(b"8BPS\0\1" + bytes(20))
    (tmp_path / "note.txt").write_text("BM P6 <svg>")

    assert listed(tmp_path) == ["a.bin", "no_suffix", "photoshop.dat"]


def test_other_and_hidden_files_are_one_counted_notice(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    for name in ("list.csv", "more.csv", "notes.txt", "README", ".DS_Store"):
        (tmp_path / name).write_text("text")
    (tmp_path / ".thumbs").mkdir()
    (tmp_path / ".thumbs" / "a.jpg").write_bytes(jpeg(1))

    assert listed(tmp_path) == ["a.jpg"]
    [notice] = notices(tmp_path)
    assert notice == (
        "not read as images: 4 other files (2 csv, 1 without suffix, 1 txt), 2 hidden files"
    )


def test_one_file_is_one_image_whatever_its_names(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg(1))
    (tmp_path / "a_link.jpg").symlink_to("photo.jpg")
    os.link(tmp_path / "photo.jpg", tmp_path / "second.jpg")
    (tmp_path / "folder").mkdir()
    (tmp_path / "again").symlink_to("folder")

    assert listed(tmp_path) == ["photo.jpg"]
    assert notices(tmp_path) == [
        "not read as images: 3 links to files that are listed, or to folders"
    ]


def test_link_to_a_file_elsewhere_is_listed_once(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside.jpg", tmp_path / "images"
    outside.write_bytes(jpeg(1))
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).symlink_to(outside)
    (folder / "broken.jpg").symlink_to("nowhere.jpg")

    assert listed(folder) == ["a.jpg", "broken.jpg"]


def test_glob_lists_files_that_links_name_once(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg(1))
    (tmp_path / "a_link.jpg").symlink_to("photo.jpg")

    source = open_source(SourceSettings(path=str(tmp_path / "*.jpg")), tmp_path)

    assert [file.name for file in source.files] == ["photo.jpg"]
    assert len(read_source(source).notices) == 1


def test_files_that_cannot_be_read_have_a_status(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    contents = {
        "good.jpg": jpeg(1),
        "photoshop.psd": b"8BPS\0\1" + bytes(80),
        "camera.nef": b"II*\0\x08\0\0\0\1\0" + b"\x12\xc6\1\0\4\0\0\0\1\4\0\0" + bytes(80),
        "drawing.svg": b"<svg xmlns='x'/>",
        "next.jxl": b"\xff\x0a" + bytes(80),
        "page.jpg": b"<html></html>",
        "cut.jpg": jpeg(1)[:100],
        "empty.png": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    store = Store.open(tmp_path / "store")
    settings = SourceSettings(path=str(folder))
    ItemsStage(store, "photos", settings, shards=1, project_root=tmp_path).run()

    with ImagesStage(store, "photos", DownloadSettings(retries=0)) as stage:
        report = stage.run(Shard(0, 1))

    assert report.statuses == {
        "not_image": 1,
        "ok": 1,
        "truncated": 2,
        "unsupported_format": 4,
    }
