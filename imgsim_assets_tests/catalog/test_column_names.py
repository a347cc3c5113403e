"""The columns of a list, which its first lines tell before a run reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imgsim_assets.catalog.delimited_reader import read_delimited
from imgsim_assets.pipeline.settings import CatalogSettings

_ROWS = "\n7;photos/a.jpg" * 2000


def _missing(root: Path, **source: Any) -> str | None:
    return CatalogSettings(name="shop", source=source).missing_columns(root)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (f"sku;image_url{_ROWS}".encode(), "'sku', 'image_url'"),
        (f"\ufeffsku;image_url{_ROWS}".encode(), "'sku', 'image_url'"),
        (f"sku;image_url{_ROWS}".encode("utf-16"), "'sku', 'image_url'"),
        (f"# an export\nsku;image_url{_ROWS}".encode(), "'sku', 'image_url'"),
    ],
)
def test_misspelled_column_is_named_with_those_that_there_are(
    content: bytes, names: str, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    source = {"path": "list.csv", "comment": "#"}

    assert _missing(tmp_path, **source, id="sku", url="image_url") is None
    assert _missing(tmp_path, **source, id="sku", url=["image_url"]) is None
    assert _missing(tmp_path, **source, id="skuu") == (
        f"list.csv: there is no column 'skuu'; set 'id:' to one of {names}"
    )
    assert "set 'url:' to one of" in str(_missing(tmp_path, **source, url="image"))


def test_schema_of_a_parquet_file_tells_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pl.DataFrame({"sku": ["1"], "image": ["a.jpg"]}).write_parquet(tmp_path / "list.parquet")
    monkeypatch.setattr(pl, "read_parquet", lambda *_: pytest.fail("the rows are read"))

    assert _missing(tmp_path, path="list.parquet", id="sku", url="image") is None
    assert "no column 'id'; set 'id:' to one of 'sku', 'image'" in str(
        _missing(tmp_path, path="list.parquet", id="id")
    )


def test_only_the_first_lines_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.csv").write_text(f"sku;image_url{_ROWS}")
    read: list[int] = []

    def counted(*arguments: Any) -> Any:
        raw = read_delimited(*arguments)
        read.extend(frame.height for frame in raw.frames)
        return raw

    monkeypatch.setattr("imgsim_assets.catalog.reader.read_delimited", counted)

    assert _missing(tmp_path, path="list.csv", id="sku") is None
    assert sum(read) == 999


@pytest.mark.parametrize(
    "source",
    [
        {"path": "s3://bucket/list.csv", "id": "other"},
        {"path": "list.csv"},
        {"path": "lists", "id": "other"},
        {"path": "list.jsonl", "id": "other"},
        {"path": "latin.csv", "id": "Größe"},
        {"path": "photos", "id": "other"},
    ],
)
def test_nothing_is_said_where_only_a_run_can_tell(source: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("sku,url\n1,a.jpg\n")
    (tmp_path / "list.jsonl").write_text('{"sku": 1, "url": "a.jpg"}\n')
    (tmp_path / "latin.csv").write_bytes("Größe,url\n1,a.jpg\n".encode("latin-1"))
    (tmp_path / "lists").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"lists/{name}.csv").write_text("sku,url\n1,a.jpg\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"")

    assert _missing(tmp_path, **source) is None
