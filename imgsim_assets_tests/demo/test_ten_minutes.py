"""Every command and snippet of docs/ten_minutes.md runs, from top to bottom, in a project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.projects import Project

_ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with the lists and photographs of the page; two of three copies are in both."""
    project = Project.make(tmp_path / "project")
    (project.root / "data/photos").mkdir(parents=True)
    for seed, name in enumerate("abc"):
        (project.root / "data/photos" / f"{name}.jpg").write_bytes(jpeg(seed))
        copy = encoded(make_image(seed), "JPEG", quality=40)
        (project.root / "data/photos" / f"{name}-copy.jpg").write_bytes(copy)
    left = "".join(f"L{name},photos/{name}.jpg,title {name}\n" for name in "abc")
    right = "".join(f"R{name};photos/{name}-copy.jpg\n" for name in "abz")
    project.write("data/shop.csv", "sku,image,title\n" + left)
    project.write("data/supplier.csv", "article;picture\n" + right)
    return project


def _judge(path: Path) -> None:
    sample = pl.read_csv(path)
    assert set(sample["left_id"]) == {"La", "Lb"}
    sample.with_columns(verdict=pl.lit("match")).write_csv(path)


def test_page_runs_from_top_to_bottom(project: Project, tmp_path: Path) -> None:
    blocks = _BLOCK.findall((_ROOT / "docs/ten_minutes.md").read_text())
    (declaration,) = [body for kind, body in blocks if kind == "yaml"]
    project.write(f"{project.package}/defs/shop__supplier/defs.yaml", declaration)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": f"{project.root}{os.pathsep}{_ROOT}",
        "DAGSTER_HOME": str(project.home),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }
    environment.pop("IMGSIM_STORE", None)
    python = tmp_path / "snippets.py"
    for kind, body in blocks:
        if kind == "yaml":
            continue
        command = ["bash", "-euo", "pipefail", "-c", body]
        if kind == "python":
            python.write_text((python.read_text() if python.exists() else "") + body)
            command = [sys.executable, str(python)]
        done = subprocess.run(
            command,
            cwd=project.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{body}\n{done.stdout}"
        if "judged.csv" in body and kind == "python":
            _judge(project.root / "judged.csv")

    store = Store.open(project.root / "data/store")
    matches = read_table("matches/shop__supplier", store=store).collect()
    assert dict(matches.select("left_id", "verdict").rows()) == {"La": "match", "Lb": "match"}
    failed = pl.read_csv(project.root / "failed.csv")
    assert failed.height == 0
    assert (project.root / "neighbors.html").stat().st_size > 1000
