from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.catalog.hosts import authority_problem
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.stage import ItemsStage, items_table, rejects_table
from imgsim_assets.download.http.urls import parse_url
from imgsim_assets.download.status import FetchError
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.tables import latest_commit

VALID = [
    "example.com", "example.com:8080", "example.com:", "a_b.example", "-a-.example", "example.com.",
    "127.0.0.1:80", "127.1", "0x7f.1", "localhost", "[::1]:443", "xn--mller-kva.example",
    "müller.example", "日本。example", "a" * 63 + ".example", "1e5",
]  # fmt: skip
INVALID = {
    "": "there is no host",
    ":80": "there is no host",
    "ann:secret@example.com": "user names and passwords",
    "secret@example.com": "user names and passwords",
    "127.0.0.1 ": "blank",
    "exa mple.com": "blank",
    "example.com\u00a0": "blank",
    "exa%20mple.com": "another character",
    "example.com|x": "another character",
    "[::1": "another character",
    "[::g]": "another character",
    "[1:2]": "no IPv6 address",
    "example.com:65616": "the port is not between 1 and 65535",
    "example.com:0": "the port is not between",
    "[::1]:99999": "the port is not between",
    "example.com:" + "9" * 5000: "the port is not between",
    "example.com:8o": "the port is not a number",
    "example.com:\uff18\uff10": "the port is not a number",
    ".example.com": "empty label",
    "example..com": "empty label",
    "example.com..": "empty label",
    "日本。。example": "empty label",
    ".": "empty label",
    "256.1.1.1": "not an IPv4 address",
    "1.2.3.4.5": "not an IPv4 address",
    "a" * 64 + ".example": "longer than 253 characters, or a label than 63",
    ".".join(["a" * 60] * 5): "longer than 253",
}


@pytest.mark.parametrize("authority", VALID)
def test_hosts_that_browsers_accept_are_valid(authority: str) -> None:
    assert authority_problem(authority) is None
    parse_url(f"http://{authority}/x.jpg")


@pytest.mark.parametrize("authority", INVALID)
def test_other_hosts_are_bad_urls_with_a_reason(authority: str) -> None:
    assert INVALID[authority] in str(authority_problem(authority))

    with pytest.raises(FetchError) as raised:
        parse_url(f"http://{authority}/y.jpg")
    assert raised.value.status == "bad_url"


@given(st.text(max_size=40))
def test_any_authority_has_an_answer_that_does_not_quote_it(authority: str) -> None:
    problem = authority_problem(f"ann:s3cr3t{authority}@host")

    assert problem is not None
    assert "s3cr3t" not in problem
    authority_problem(authority)


def _ingest(store: Store, folder: Path, rows: list[tuple[str, str, str]]) -> None:
    frame = pl.DataFrame(rows, schema=["id", "url", "page"], orient="row")
    frame.write_parquet(folder / "list.parquet")
    settings = SourceSettings(path=str(folder / "list.parquet"), id="id", url="url")
    ItemsStage(store, "shop", settings, shards=1, project_root=folder).run()


def test_bad_hosts_passwords_and_control_characters_are_rejects(
    store: Store, tmp_path: Path
) -> None:
    _ingest(
        store,
        tmp_path,
        [
            ("ok", "http://example.com/1.jpg", "https://ann:S3CRET@example.com/page"),
            ("upper", "HTTP://EXAMPLE.COM:80/2.jpg", "image@2x"),
            ("azure", "abfss://container@account.dfs.core.windows.net/1.jpg", ""),
            ("password", "http://ann:S3CRET@example.com/3.jpg", ""),
            ("token", "https://S3CRET@example.com/4.jpg", ""),
            ("key", "s3://key:S3CRET@bucket/5.jpg", ""),
            ("slashed", "http://ann:S3C/RET@example.com/6.jpg", ""),
            ("port", "http://example.com:65616/7.jpg", ""),
            ("blank", "http://127.0.0.1 /8.jpg", ""),
            ("label", "http://example..com/9.jpg", ""),
            ("esc\x1b]0;title\x07", "http://example.com/10.jpg", ""),
            ("c1\x9b31m", "http://example.com/11.jpg", ""),
            ("line\nbreak", "http://example.com/12.jpg", ""),
            ("http://ann:S3CRET@example.com/", "http://example.com/13.jpg", ""),
        ],
    )

    items, rejects = items_table(store, "shop"), rejects_table(store, "shop")
    valid, invalid = items.read(latest_commit(items)), rejects.read(latest_commit(rejects))
    assert sorted(valid["id"]) == ["azure", "ok", "upper"]
    assert valid.filter(id="ok")["page"].item() == "https://***@example.com/page"
    assert invalid["reason"].value_counts(sort=True).rows() == [("bad_url", 7), ("bad_id", 4)]
    assert invalid.filter(pl.col("text").str.contains("id=port"))["detail"].item() == (
        "the port is not between 1 and 65535"
    )
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            assert b"S3C" not in path.read_bytes(), path
    shown = "".join(map(str, [valid.rows(), invalid.rows()]))
    assert "S3C" not in shown
    assert not {"\\x1b", "\\x9b", "\\x07"} & {shown[i : i + 4] for i in range(len(shown))}
