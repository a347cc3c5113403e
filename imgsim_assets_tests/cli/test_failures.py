"""The failures of a catalog in one table, and those to look at first."""

from __future__ import annotations

import polars as pl

from imgsim_assets.pipeline.failures import (
    FAILURES_SCHEMA,
    host_counts,
    most_important,
    read_failures,
)
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.shell import Shell
from imgsim_assets_tests.support.web import Web


def _match_with_failures(shell: Shell, web: Web) -> str:
    """A catalog with a rejected row, two dead links, a page and a truncated image."""
    web.pages |= {f"/{n}.jpg": jpeg(n) for n in range(3)}
    web.pages["/2.jpg"] = jpeg(2)[:900]
    web.pages["/page.jpg"] = b"<html>log in</html>"
    rows = [(str(n), web.url(f"/{n}.jpg"), f"title {n}") for n in range(3)]
    rows += [(f"dead{n}", web.url(f"/dead{n}.jpg"), "gone") for n in range(2)]
    rows += [("page", web.url("/page.jpg"), "a page"), ("bad", "ftp://x/y.jpg", "rejected")]
    lines = [",".join(map(str, row)) for row in [("id", "url", "status"), *rows]]
    shell.write("list.csv", "\n".join(lines))
    result = shell.match(
        "list.csv", "list.csv", "--allowed-host", web.address, "--retries", "0", "--json"
    )
    name: str = result.json["left"]["catalog"]
    return name


def test_failures_of_every_stage_are_in_one_table_with_carried_columns(
    shell: Shell, web: Web
) -> None:
    name = _match_with_failures(shell, web)

    failures = read_failures(shell.store, name)

    found = failures.select("stage", "id", "status", "source_status").rows()
    assert found == [
        ("source", None, "unsupported_scheme", None),
        ("images", "dead0", "http_404", "gone"),
        ("images", "dead1", "http_404", "gone"),
        ("images", "page", "not_image", "a page"),
        ("embeddings", "2", "truncated", "title 2"),
    ]
    assert failures.columns == [*FAILURES_SCHEMA, "source_status"]
    assert failures["text"][0] is not None
    assert failures["url"].to_list()[1:] == [
        web.url(f"/{path}.jpg") for path in ("dead0", "dead1", "page", "2")
    ]
    assert host_counts(shell.store, name, 5).rows() == [
        ("127.0.0.1", 6, 3, "http_404 2, not_image 1")
    ]


def test_command_writes_all_failures_and_shows_the_important_ones(shell: Shell, web: Web) -> None:
    name = _match_with_failures(shell, web)

    shown = shell("failures", name)
    written = shell("failures", name, "--out", "failed.tsv")

    summary = f"{name}: 5 failures (1 in source, 3 in images, 1 in embeddings)"
    assert (shown.code, written.code) == (0, 0)
    assert shown.out.splitlines()[0] == written.out.splitlines()[0] == summary
    assert "http_404" in shown.out
    assert shell.table("failed.tsv").height == 5
    assert shell("failures", "nobody").code == 2


def test_command_shows_where_a_rejected_row_is_and_no_empty_column(shell: Shell, web: Web) -> None:
    web.pages["/1.jpg"] = jpeg(1)
    shell.write("list.csv", f"id,url\na,{web.url('/1.jpg')}\n,ftp://x/y.jpg\n")
    found = shell.match("list.csv", "list.csv", "--allowed-host", web.address, "--json")

    shown = shell("failures", found.json["left"]["catalog"]).out

    header = next(line for line in shown.splitlines() if "status" in line).split()
    assert {"stage", "status", "file", "line", "text"} <= set(header)
    assert "id" not in header
    assert "list.csv" in shown


def test_each_status_is_shown_before_a_second_failure_of_one() -> None:
    statuses = ["http_404"] * 5 + ["timeout"] * 3 + ["not_image"]
    rows = {
        "id": [f"i{n}" for n in range(9)],
        "image": [0] * 9,
        "stage": ["images"] * 9,
        "status": statuses,
        "retryable": [status == "timeout" for status in statuses],
        "attempts": [1, 5, 1, 1, 1, 2, 2, 2, 1],
    }

    shown = most_important(pl.DataFrame(rows), 4)

    assert shown["id"].to_list() == ["i1", "i8", "i5", "i0"]


def test_failures_without_attempts_are_shown_beside_many_images() -> None:
    images = [("images", f"i{n}", "http_404", 1) for n in range(30)]
    others = [("source", None, "empty_id", None), ("embeddings", "e", "zero_vector", None)]
    schema = ["stage", "id", "status", "attempts"]
    failures = pl.DataFrame(images + others, schema=schema, orient="row")

    shown = most_important(failures.with_columns(image=0, retryable=False), 20)

    assert shown["stage"].value_counts().sort("stage").rows() == [
        ("embeddings", 1),
        ("images", 18),
        ("source", 1),
    ]


def test_command_shows_rejected_rows_beside_many_failed_images(shell: Shell, web: Web) -> None:
    rows = [f"i{n},{web.url(f'/none{n}.jpg')}" for n in range(25)]
    shell.write("list.csv", "\n".join(["id,url", *rows, "r1,", "r2,"]) + "\n")
    found = shell.match("list.csv", "list.csv", "--allowed-host", web.address, "--json")

    shown = shell("failures", found.json["left"]["catalog"]).out

    assert "27 failures (2 in source, 25 in images)" in shown
    assert shown.count("empty_url") == 2
    assert shown.count("http_404") == 18
