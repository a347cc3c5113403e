"""Lists in archives, and formats that the content tells."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.catalog.source import open_source
from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.sources import (
    find_source,
    read_raw,
    read_values,
    source_settings,
    write,
)
from imgsim_assets_tests.support.web import Web

_CSV = b"sku,image\n1,http://h/1.jpg\n"
_ROWS = [{"sku": "1", "image": "http://h/1.jpg"}]
_JUNK = {"__MACOSX/._a.csv": b"x", ".DS_Store": b"x", "Thumbs.db": b"x"}


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip of these files."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return body.getvalue()


def tarred(name: str, content: bytes) -> bytes:
    """A tar of one file."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return body.getvalue()


def test_only_list_of_a_zip_is_read(tmp_path: Path) -> None:
    write(tmp_path, "a.zip", zipped({"export/a.csv": _CSV, **_JUNK}))
    write(tmp_path, "b.csv.zip", zipped({"b.tsv": _CSV.replace(b",", b"\t")}))

    assert read_values(tmp_path, "a.zip").to_dicts() == _ROWS
    assert read_values(tmp_path, "b.csv.zip").to_dicts() == _ROWS


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
def test_only_list_of_a_tar_is_read(tmp_path: Path, name: str) -> None:
    body = tarred("a.csv", _CSV)
    write(tmp_path, name, body if name == "a.tar" else gzip.compress(body))

    assert read_values(tmp_path, name).to_dicts() == _ROWS


def test_zip_of_several_files_lists_them(tmp_path: Path) -> None:
    write(tmp_path, "a.zip", zipped({"a.csv": _CSV, "b.csv": _CSV}))
    write(tmp_path, "b.zip", zipped(_JUNK))

    with pytest.raises(SourceError, match=r"holds 2 files \(a\.csv, b\.csv\); pack a single"):
        read_raw(tmp_path, "a.zip")
    with pytest.raises(SourceError, match="holds no file"):
        read_raw(tmp_path, "b.zip")


def test_damaged_zip_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.zip", zipped({"a.csv": _CSV})[:40])

    with pytest.raises(SourceError, match=r"a\.zip is a damaged zip"):
        read_raw(tmp_path, "a.zip")


_OBJECTS = [{"sku": "1", "image": "u1"}, {"sku": "2", "image": "u2"}]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(_OBJECTS),
        json.dumps(_OBJECTS, indent=2),
        json.dumps({"count": 2, "data": {"products": _OBJECTS}}),
        "\n".join(map(json.dumps, _OBJECTS)),
        "sku;image\n1;u1\n2;u2\n",
    ],
    ids=["array", "indented array", "array in an object", "lines", "csv"],
)
@pytest.mark.parametrize("name", ["export.json", "export", "export.php"])
def test_content_tells_the_format(tmp_path: Path, name: str, content: str) -> None:
    write(tmp_path, name, content)

    assert read_values(tmp_path, name).to_dicts() == _OBJECTS


def test_array_of_urls_is_a_list_of_images(tmp_path: Path) -> None:
    write(tmp_path, "a.json", json.dumps(["http://h/1.jpg", "http://h/2.jpg"]))

    assert read_values(tmp_path, "a.json")["url"].to_list() == ["http://h/1.jpg", "http://h/2.jpg"]


def test_element_that_is_no_object_is_rejected_by_position(tmp_path: Path) -> None:
    write(tmp_path, "a.json", json.dumps([_OBJECTS[0], 7, _OBJECTS[1]]))

    raw = read_raw(tmp_path, "a.json")

    assert [(reject.line, reject.reason) for reject in raw.rejects] == [(2, "unreadable_line")]
    assert raw.frame()["__line"].to_list() == [1, 3]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"a": _OBJECTS, "b": _OBJECTS}, "several arrays of objects: a, b"),
        ({"a": {"x": {"sku": 1}}}, "no array of objects"),
        (5, "no array of objects"),
    ],
)
def test_document_without_one_array_is_refused(tmp_path: Path, document: Any, message: str) -> None:
    write(tmp_path, "a.json", json.dumps(document, indent=1))

    with pytest.raises(SourceError, match=message):
        read_raw(tmp_path, "a.json", format="json")


def test_query_of_a_feed_is_neither_suffix_nor_shown(tmp_path: Path, web: Web) -> None:
    web.pages["/feed.csv?token=s3cret"] = _CSV
    url = web.url("/feed.csv?token=s3cret")

    source = find_source(tmp_path, url)
    raw = read_raw(tmp_path, url)

    assert raw.frame().drop("__file", "__line").to_dicts() == _ROWS
    assert "s3cret" not in f"{raw.frame()['__file'][0]} {source.location} {source.root}"
    assert "s3cret" not in str(source.fingerprint())
    with pytest.raises(SourceError) as raised:
        open_source(source_settings("http://127.0.0.1:1/feed.csv?token=s3cret"), tmp_path)
    assert "s3cret" not in str(raised.value)
