"""Loading a project tells how long its large exact results take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.components import exact_time
from imgsim_assets.components.load_warning import warn_once
from imgsim_assets.components.store.resource import StoreResource
from imgsim_assets.encoders.hardware import usable_cores
from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted
from imgsim_assets_tests.support.large_catalog import write_large_catalog
from imgsim_assets_tests.support.projects import Project

_MILLION = 1_000_000


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project.make(tmp_path / "project")
    _declare(made)
    return made


def _declare(project: Project, **settings: Any) -> None:
    """Declare two catalogs, both with groups, their match table and their groups together."""
    for name in ("products", "suppliers"):
        project.write(f"{name}.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
        catalog = {"name": name, "source": f"{name}.csv", "encoder": "hog_color", "shards": 1}
        graph, groups = settings, settings if name == "products" else None
        results = {"graph": graph} | ({"groups": groups} if groups is not None else {})
        project.declare(name, "ImageCatalogComponent", catalog | results)
    pair = {"name": "pair", "left": "products", "right": "suppliers"}
    project.declare("pair", "MatchMatrixComponent", pair | settings)
    both = {"name": "both", "catalogs": ["products", "suppliers"]}
    project.declare("both", "DuplicateGroupsComponent", both | settings)


def _fill(store: Store, products: int, suppliers: int) -> None:
    write_large_catalog(store, "products", products)
    write_large_catalog(store, "suppliers", suppliers)


def _warnings(project: Project, caplog: pytest.LogCaptureFixture, *, loads: int = 1) -> list[str]:
    """What a new process tells that loads the project."""
    warn_once.cache_clear()
    caplog.clear()
    for _ in range(loads):
        project.definitions()
    return sorted(each.getMessage() for each in caplog.records if "exactly" in each.getMessage())


def test_each_large_result_is_told_once_with_its_time_and_what_to_do(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(project.store, _MILLION, 2 * _MILLION)

    found = _warnings(project, caplog, loads=2)  # as `dg check defs` loads it

    minutes, cores = 2e12 * 576 / 8e10 / 60 / usable_cores(), counted(usable_cores(), "core")
    (pair,) = (line for line in found if "matches/pair" in line)
    assert pair.endswith(
        "shop/defs/pair/defs.yaml:2: attributes.method: a full computation of matches/pair "
        "compares 1,000,000 images of products with 2,000,000 of suppliers exactly, which takes "
        f"about {minutes:,.0f} minutes on {cores} of this machine; 'method: approximate' takes a "
        "fraction of it and measures what it misses, 'method: exact' ends this warning"
    )
    others = [line.split("a full computation of ")[1].split(" exactly")[0] for line in found]
    assert sorted(others) == [
        "duplicate_groups/both compares 3,000,000 images of products and suppliers with each other",
        "matches/pair compares 1,000,000 images of products with 2,000,000 of suppliers",
        "products/duplicate_groups compares 1,000,000 images of products with each other",
        "products/similarity_graph compares 1,000,000 images of products with each other",
        "suppliers/similarity_graph compares 2,000,000 images of suppliers with each other",
    ]
    places = [line for line in found if "attributes.groups.method: " in line]
    assert len(places) == 1
    assert "products/duplicate_groups" in places[0]


@pytest.mark.parametrize(
    "settings",
    [{"method": "exact"}, {"method": "approximate"}, {"within": ["brand"]}],
    ids=["exact", "approximate", "within"],
)
def test_a_declared_method_and_a_size_that_is_not_known_are_told_nothing(
    project: Project, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    _fill(project.store, _MILLION, _MILLION)
    _declare(project, **settings)

    assert _warnings(project, caplog) == []


def test_a_catalog_that_is_small_or_has_no_index_is_told_nothing(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    write_large_catalog(project.store, "products", 316_000)  # just below 10^11 pairs
    assert _warnings(project, caplog) == []

    write_large_catalog(project.store, "suppliers", 200)
    assert _warnings(project, caplog) == []


def test_a_damaged_store_loads_without_a_warning(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(project.store, _MILLION, 100)
    commits = sorted((project.root / "data/store/products/index/_commits").iterdir())
    assert len(commits) == 2
    commits[-1].write_bytes(commits[-1].read_bytes().replace(b"1000000", b"1000001"))

    assert _warnings(project, caplog) == []


def test_orientations_compare_every_left_image_eight_times(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(ORIENTATIONS) == exact_time._ORIENTATIONS
    _fill(project.store, 120_000, 100)
    _declare(project, orientations=True)

    found = _warnings(project, caplog)

    assert [line for line in found if "products/similarity_graph compares 120,000 images" in line]


_IN_PYTHON = """
import dagster as dg
import imgsim_assets

defs = dg.Definitions(
    resources={{"imgsim_store": imgsim_assets.StoreResource(url={url})}}
)
"""


@pytest.mark.parametrize("declared", ["YAML", "Python", "dg.EnvVar", "IMGSIM_STORE"])
def test_the_sizes_are_those_of_the_store_that_the_project_declares(
    project: Project,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    declared: str,
) -> None:
    folder = project.root / "tables"
    _fill(Store.open(folder), _MILLION, 100)
    if declared == "YAML":
        project.declare("store", "StoreComponent", {"url": "tables"})
    elif declared == "IMGSIM_STORE":
        monkeypatch.setenv("IMGSIM_STORE", "tables")
    else:
        monkeypatch.setenv("TABLES", str(folder))
        url = repr(str(folder)) if declared == "Python" else "dg.EnvVar('TABLES')"
        project.write("shop/defs/resources.py", _IN_PYTHON.format(url=url))

    assert [line for line in _warnings(project, caplog) if "products/similarity_graph" in line]


def test_a_remote_store_and_one_that_only_runs_know_have_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TABLES", raising=False)
    assert StoreResource(url="s3://bucket/store").local_folder() is None
    assert StoreResource(url=dg.EnvVar("TABLES")).local_folder() is None
    assert (
        StoreResource(url="store", project_root=str(tmp_path)).local_folder() == tmp_path / "store"
    )
