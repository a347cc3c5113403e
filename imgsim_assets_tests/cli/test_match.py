"""`imgsim match`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.downloads import wait_until
from imgsim_assets_tests.support.encoders import COUNTER, encoded_count
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.processes import BUSY_S
from imgsim_assets_tests.support.shell import Shell
from imgsim_assets_tests.support.shop import versions
from imgsim_assets_tests.support.web import Web

# The similarity of different pictures is lower, and that of the recompressed ones is higher.
AT_0845 = ("--threshold", "0.845")


@pytest.fixture
def demo(shell: Shell, web: Web) -> Shell:
    """Six images: 1, 2 and 3 show the same, so do 5 and 6; the second list has 3 to 5."""
    shows = {1: 1, 2: 1, 3: 1, 4: 2, 5: 3, 6: 3}
    for number, seed in shows.items():
        quality = {1: 90, 2: 50, 3: 30, 4: 90, 5: 90, 6: 40}[number]
        web.pages[f"/{number}.jpg"] = encoded(make_image(seed), "JPEG", quality=quality)
    rows = {number: f"{number},{web.url(f'/{number}.jpg')}" for number in shows}
    shell.write("test1.csv", "\n".join(["id,url", *rows.values()]) + "\n")
    shell.write("test2.csv", "\n".join(["id,url", *(rows[number] for number in (3, 4, 5))]) + "\n")
    return shell


def _allow(web: Web) -> tuple[str, str]:
    return ("--allowed-host", web.address)


def test_match_writes_the_best_match_of_each_left_item(demo: Shell, web: Web) -> None:
    result = demo.match(
        "test1.csv", "test2.csv", *_allow(web), "--threshold", "0.845", "--out", "r.tsv"
    )

    assert result.code == 0, result.err
    table = demo.table("r.tsv")
    assert table.columns == ["left_id", "left_url", "right_id", "right_url", "similarity"]
    assert table.select("left_id", "right_id").rows() == [
        ("1", "3"), ("2", "3"), ("3", "3"), ("4", "4"), ("5", "5"), ("6", "5"),
    ]  # fmt: skip
    assert table["similarity"][2] == "1.00000"
    assert all(len(value.split(".")[1]) == 5 for value in table["similarity"])
    assert table["left_url"][0] == web.url("/1.jpg")
    assert "6 matches of 6 x 3 items at 0.845 or more" in result.out
    assert "similarity of every pair" in result.out


def test_matrix_has_every_pair(demo: Shell, web: Web) -> None:
    result = demo.match("test1.csv", "test2.csv", *_allow(web), "--threshold", "0.845", "--json")

    matrix = pl.DataFrame(result.json["matrix"])
    best = {row["left_id"]: max(row[item] for item in "345") for row in matrix.to_dicts()}
    assert matrix.shape == (6, 4)
    for match in result.json["matches"]:
        assert match["similarity"] == best[match["left_id"]] >= 0.845
    same = {("1", "3"), ("2", "3"), ("3", "3"), ("4", "4"), ("5", "5"), ("6", "5")}
    for row in matrix.to_dicts():
        for item in "345":
            assert (row[item] >= 0.845) == ((row["left_id"], item) in same)


def test_large_matrix_is_printed_only_with_the_matrix_option(shell: Shell) -> None:
    for seed in range(9):
        shell.write(f"pics/{seed}.jpg", jpeg(seed))

    without_option = shell.match_copy("pics")
    with_option = shell.match_copy("pics", "--matrix")

    assert "similarity of every pair" not in without_option.out
    assert "similarity of every pair" in with_option.out
    assert with_option.out.count("1.00000") == 18  # the diagonal, and the matches


def test_list_matched_with_itself_has_every_pair_once_and_no_self_match(shell: Shell) -> None:
    for name, quality in (("a", 90), ("b", 80), ("c", 70)):
        shell.write(f"photos/{name}.jpg", jpeg(1, quality=quality))
    shell.write("photos/other.jpg", jpeg(2))

    every = shell.match("photos", "photos", "--threshold", "0.95", "--mode", "all", "--json")
    best = shell.match("photos", "photos", "--threshold", "0.95")
    assigned = shell.match("photos", "photos", "--mode", "one_to_one")

    pairs = [(match["left_id"], match["right_id"]) for match in every.json["matches"]]
    assert sorted(pairs) == [("a.jpg", "b.jpg"), ("a.jpg", "c.jpg"), ("b.jpg", "c.jpg")]
    assert "2 pairs of 4 items at 0.95 or more, 3 of the items matched" in best.out
    assert best.out.count("photos: 4 items") == 1
    assert assigned.code == 1
    assert "--mode: one_to_one needs two different lists" in assigned.err


def test_rerun_fetches_and_embeds_nothing(
    demo: Shell, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COUNTER, str(tmp_path / "count"))
    arguments = ("test1.csv", "test2.csv", *_allow(web), "--threshold", "0.845", "--json")
    first = demo.match(*arguments)
    fetched, passes = web.total_gets, encoded_count(tmp_path / "count")
    before = versions(demo.store)

    again = demo.match(*arguments)
    other = demo.match(*arguments, "--mode", "all")

    assert (web.total_gets, encoded_count(tmp_path / "count")) == (fetched, passes)
    assert again.json["matches"] == first.json["matches"]
    assert again.json["left"]["fetched"] == again.json["left"]["embedded"] == 0
    assert first.json["left"]["requested"] == first.json["left"]["fetched"] == 6
    assert len(other.json["matches"]) == 6
    assert {name: versions(demo.store)[name] for name in before} == before


def test_new_row_fetches_and_embeds_one_image(demo: Shell, web: Web) -> None:
    demo.match("test1.csv", "test2.csv", *_allow(web), *AT_0845)
    web.pages["/7.jpg"] = encoded(make_image(2), "JPEG", quality=45)
    with (demo.folder / "test1.csv").open("a") as file:
        file.write(f"7,{web.url('/7.jpg')}\n")

    result = demo.match("test1.csv", "test2.csv", *_allow(web), *AT_0845, "--json")

    assert result.json["left"]["fetched"] == result.json["left"]["embedded"] == 1
    assert result.json["right"]["fetched"] == 0
    assert [match["right_id"] for match in result.json["matches"]][-1] == "4"


def test_header_option_names_the_result_columns(demo: Shell, web: Web) -> None:
    header = ("--result-header", "id1,url1,id2,url2")

    result = demo.match("test1.csv", "test2.csv", *_allow(web), *AT_0845, *header, "--out", "r.tsv")
    short = demo.match("test1.csv", "test2.csv", *_allow(web), *AT_0845, "--result-header", "a,b")

    assert result.code == 0
    assert demo.table("r.tsv").columns == ["id1", "url1", "id2", "url2", "similarity"]
    assert short.code == 2
    assert "--result-header names 2 columns; give 4 different names" in short.err


def test_stored_catalogs_are_matched_by_name(shell: Shell) -> None:
    for name, seeds in (("products", range(3)), ("suppliers", range(1, 4))):
        indexed(shell.store, name, {f"{name[0]}{seed}": tiny(seed) for seed in seeds})
        _catalog_of(shell, name)

    (shell.folder / "products").mkdir()  # as the package of a project may be named

    result = shell("match", "products", "suppliers", "--threshold", "0.99", "--json")

    assert result.code == 0, result.err
    assert _pairs(result.json) == [("p1", "s1"), ("p2", "s2")]
    assert "./products holds no images" in shell("match", "./products", "suppliers").err
    unknown = shell("match", "product", "suppliers")
    assert unknown.code == 1
    assert "neither a file nor a catalog" in unknown.err
    assert "products, suppliers" in unknown.err


def test_encoder_option_that_stored_vectors_contradict_is_refused(shell: Shell) -> None:
    indexed(shell.store, "products", {"p0": tiny(0), "p1": tiny(1)})
    _catalog_of(shell, "products")

    own = "imgsim_assets_tests.support.encoders:thumbnail"
    same = shell("match", "products", "products", "--encoder", own, "--json")
    other = shell("match", "products", "products", "--encoder", "imgsim_copy")
    groups = shell("groups", "products", "--encoder", "imgsim_copy")

    assert same.code == 0, same.err
    assert (other.code, groups.code) == (2, 2)
    for refused in (other, groups):
        assert f"--encoder: products has vectors of {own}" in refused.err


def test_list_is_embedded_only_by_the_encoder_of_the_catalog_it_meets(shell: Shell) -> None:
    indexed(
        shell.store, "products", {"p0": tiny(0), "p1": tiny(1)}, EncoderSettings(name="hog_color")
    )
    _catalog_of(shell, "products")
    shell.write("0.png", tiny(0))
    shell.write("list.csv", "id,url\n1,0.png\n")

    refused = [shell("match", "list.csv", "products"), shell("groups", "products", "list.csv")]
    accepted = shell("match", "list.csv", "products", "--encoder", "hog_color", "--json")

    for result in refused:
        assert result.code == 2
        assert "products has vectors of hog_color, and list.csv would be embedded" in result.err
        assert result.err.endswith("by imgsim_copy; give --encoder hog_color\n")
    assert accepted.code == 0, accepted.err
    assert _pairs(accepted.json) == [("1", "p0")]


def test_stored_catalogs_are_matched_one_to_one(shell: Shell) -> None:
    """The best match of both products is the same supplier item."""
    indexed(shell.store, "products", {"p": tiny(1), "q": tiny(8, like=1)})
    indexed(shell.store, "suppliers", {"s": tiny(1), "t": tiny(9, like=1)})
    for name in ("products", "suppliers"):
        _catalog_of(shell, name)

    best = shell("match", "products", "suppliers", "--threshold", "0.5", "--json")
    assigned = shell(
        "match", "products", "suppliers", "--threshold", "0.5", "--mode", "one_to_one", "--json"
    )

    assert _pairs(best.json) == [("p", "s"), ("q", "s")]
    assert _pairs(assigned.json) == [("p", "s"), ("q", "t")]


def _pairs(document: Any) -> list[tuple[str, str]]:
    return [(match["left_id"], match["right_id"]) for match in document["matches"]]


def _catalog_of(shell: Shell, name: str) -> None:
    """Commit the items table that belongs to the ledger of a test."""
    from imgsim_assets.storage.commit import PendingCommit

    ids = read_table(f"{name}/images", store=shell.store).select("id", "url").collect()
    table = shell.store.table(f"{name}/items", key="id")
    file = table.write_rows(ids)
    table.commit(
        lambda _: PendingCommit(
            [file], properties={"id_column": "id", "url_column": "url", "root": ""}
        )
    )


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        (("--mode", "all"), 6),
        (("--mode", "best"), 6),
        (("--mode", "mutual"), 3),
        (("--mode", "top_k", "--k", "2"), 6),
        (("--mode", "one_to_one"), 3),
    ],
)
def test_mode_selects_the_pairs(
    demo: Shell, web: Web, options: tuple[str, ...], pairs: int
) -> None:
    result = demo.match("test1.csv", "test2.csv", *_allow(web), *AT_0845, *options, "--json")

    assert len(result.json["matches"]) == pairs


@pytest.mark.parametrize("suffix", ["tsv", "csv", "parquet", "jsonl"])
def test_results_are_written_in_every_format(demo: Shell, web: Web, suffix: str) -> None:
    result = demo.match("test1.csv", "test2.csv", *_allow(web), *AT_0845, "--out", f"r.{suffix}")

    readers: Mapping[str, Any] = {
        "tsv": lambda path: pl.read_csv(path, separator="\t"),
        "csv": pl.read_csv,
        "parquet": pl.read_parquet,
        "jsonl": pl.read_ndjson,
    }
    table = readers[suffix](demo.folder / f"r.{suffix}")
    assert result.code == 0
    assert table.height == 6
    assert table["similarity"].dtype == pl.Float64
    assert np.isclose(table["similarity"].max(), 1.0)
    assert f"6 matches written to r.{suffix}" in result.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threshold", "1.5"), "--threshold: '1.5' is not a cosine; give -1 to 1"),
        (
            ("--threshold", "high"),
            "--threshold: 'high' is not a cosine; give -1 to 1",
        ),
        (("--mode", "some"), "--mode: 'some' is not a choice; write 'all'"),
        (("--mode", "top_k"), "--k: mode top_k needs it"),
        (("--columns", "id,link"), "--columns: list.csv has no column 'link'; it has 'id', 'url'"),
        (("--url", "link"), "--url: list.csv has no column 'link'"),
        (("--delimiter", ",,"), "--delimiter: ',,' is not a delimiter"),
        (("--out", "r.xls"), "--out: r.xls ends in none of .tsv"),
        (("--out", "nowhere/r.tsv"), "--out: there is no folder"),
        (("--allowed-host", "http://x/"), "--allowed-host: 'http://x/' is not a host"),
        (("--encoder", "hog_colr"), "did you mean hog_color"),
        (("--batch-size", "0"), "--batch-size: 0 is too small; write 1 to"),
        (("--concurrency", "0"), "--concurrency: 0 is too small; write 1 to 1024"),
    ],
)
def test_invalid_option_is_named_before_any_work(
    shell: Shell, options: tuple[str, ...], message: str
) -> None:
    shell.write("list.csv", "id,url\n1,1.jpg\n")

    result = shell("match", "list.csv", "list.csv", *options)

    assert result.code == 2
    assert message in result.err
    assert not (shell.folder / "data").exists()


def test_rerun_continues_after_an_interrupt(shell: Shell, web: Web, tmp_path: Path) -> None:
    waiting = threading.Event()
    for seed in range(3):
        web.pages[f"/{seed}.jpg"] = jpeg(seed)
    web.pages["/slow.jpg"] = lambda _: (waiting.wait(120), None)[1]
    lines = [f"{seed},{web.url(f'/{seed}.jpg')}" for seed in range(3)]
    shell.write("list.csv", "\n".join(["id,url", *lines, f"slow,{web.url('/slow.jpg')}"]))
    arguments = ["match", "list.csv", "list.csv", "--encoder", "hog_color", *_allow(web)]
    process = subprocess.Popen(
        [sys.executable, "-m", "imgsim_assets.cli.main", *arguments],
        cwd=shell.folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: _fetched(Store.open(shell.folder / "data/store")) == 3)
    wait_until(lambda: web.gets["/slow.jpg"] == 1)

    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=BUSY_S)
    waiting.set()
    web.pages["/slow.jpg"] = jpeg(9)
    result = shell(*arguments, "--json")

    assert process.returncode == 130, stderr
    assert "interrupted; finished work is stored" in stderr
    assert "Traceback" not in stderr
    assert result.json["left"]["vectors"] == 4
    assert web.gets["/0.jpg"] == web.gets["/1.jpg"] == web.gets["/2.jpg"] == 1


def _fetched(store: Store) -> int:
    """How many rows of images are committed."""
    names = [path.removesuffix("/images") for path in store.table_folders() if "/images" in path]
    ledgers = [ledger_table(store, name) for name in names]
    return sum(table.read(commit).height for table in ledgers if (commit := table.latest()))


def test_progress_bars_are_drawn_on_a_terminal(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.write_images(1, 2)
    shell.write("list.csv", "id,url\n1,1.jpg\n2,2.jpg\n")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)

    result = shell.match("list.csv", "list.csv", "--out", "r.tsv")

    assert result.code == 0
    assert "embeddings" in result.err
    assert "2/2" in result.err
