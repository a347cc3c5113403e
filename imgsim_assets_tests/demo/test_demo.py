"""The demo as `make demo` runs it, in a copy of the project."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.demo import catalogs, images
from imgsim_assets.demo.__main__ import is_declared, main
from imgsim_assets.demo.server import ADDRESS, serving
from imgsim_assets.storage.reader import read_table

_ROOT = Path(__file__).parents[2]


def test_committed_catalogs_equal_those_that_the_demo_writes(tmp_path: Path) -> None:
    written = catalogs.write_missing(tmp_path)

    assert [path.name for path in written] == ["products.csv", "suppliers.tsv"]
    for path in written:
        assert path.read_text() == (_ROOT / "data/demo" / path.name).read_text()


def test_edited_catalog_is_not_overwritten(tmp_path: Path) -> None:
    catalogs.write_missing(tmp_path)
    (tmp_path / "products.csv").write_text("sku,image_url\n")

    assert catalogs.write_missing(tmp_path) == []
    assert (tmp_path / "products.csv").read_text() == "sku,image_url\n"


def test_every_url_is_served_except_the_unreachable_ones(tmp_path: Path) -> None:
    images.build(tmp_path)
    with (_ROOT / "data/demo/suppliers.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))

    paths = [row["image"].removeprefix(f"http://{ADDRESS}/") for row in rows if row["image"]]

    absent = [path for path in paths if not (tmp_path / path).exists()]
    assert absent == [
        "suppliers/sold-out.jpg",
        "http://images.example.invalid/chair.jpg",
        "http://192.168.0.1/internal.jpg",
        "ftp://images.example.com/old.jpg",
    ]


def test_port_in_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import http.server
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        taken.settimeout(0.1)
        port = taken.getsockname()[1]
        monkeypatch.setattr("imgsim_assets.demo.server.PORT", port)
        monkeypatch.setattr("imgsim_assets.demo.server.ADDRESS", f"127.0.0.1:{port}")
        monkeypatch.setattr("imgsim_assets.demo.server._is_served", lambda: False)
        monkeypatch.setattr(http.server.ThreadingHTTPServer, "allow_reuse_address", False)
        refused = pytest.raises(OSError, match=f"another program uses port {port}")
        with refused, serving(tmp_path):
            pass


def test_demo_finds_copies_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(
        _ROOT / "imgsim_assets",
        project / "imgsim_assets",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(_ROOT / "pyproject.toml", project / "pyproject.toml")
    shutil.copytree(
        _ROOT / "data/demo",
        project / "data/demo",
        ignore=shutil.ignore_patterns("images", "*.jpg"),
    )
    (project / "data/dagster_home").mkdir()
    shutil.copy(_ROOT / "data/dagster_home/dagster.yaml", project / "data/dagster_home")

    first = _demo(project)
    second = _demo(project)

    assert "matches/products__suppliers: " in first
    assert "FAILED" not in first + second
    assert ", changed" in first
    assert ", changed" not in second
    products = read_table("products/images", store=project / "data/store").collect()
    assert set(products["status"]) == {"ok"}
    matches = read_table("matches/products__suppliers", store=project / "data/store").collect()
    assert matches.height >= 15
    assert matches.filter(pl.col("left_id") == "P005")["similarity"].to_list() == [1.0]
    assert (project / "data/demo/products__suppliers.jpg").stat().st_size > 5000


def test_demo_that_is_no_longer_declared_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "imgsim_assets" / "defs" / "shoes"
    folder.mkdir(parents=True)
    (folder / "defs.yaml").write_text("attributes: {source: data/shoes.csv}\n")
    monkeypatch.setattr("imgsim_assets.demo.__main__.find_project_root", lambda _: tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

    code = main(["run"])

    assert code == 1
    assert "does not declare the demo any more" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert is_declared(_ROOT)


def _demo(project: Path) -> str:
    # The copy has precedence over the installed package.
    environment = {**os.environ, "PYTHONPATH": str(project)}
    environment.pop("DAGSTER_HOME", None)
    done = subprocess.run(
        [sys.executable, "-m", "imgsim_assets.demo", "run"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
