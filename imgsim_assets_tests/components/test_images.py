"""What a person asks of one run of the images asset, and what its metadata says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.web import Web

_PAGE = Path(__file__).parents[2] / "docs" / "download.md"


@pytest.fixture
def project(tmp_path: Path, web: Web) -> Project:
    made = Project.make(tmp_path / "project")
    declare(made, web, source={"path": "products.csv"})
    made.write("products.csv", f"id,url\ngone,{web.url('/gone.jpg')}\n")
    return made


def declare(project: Project, web: Web, **changes: Any) -> None:
    attributes = {
        "name": "products",
        "shards": 1,
        "encoder": "hog_color",
        "download": {"allowed_hosts": [web.address], "retries": 0},
    }
    project.declare("products", "ImageCatalogComponent", attributes | changes)


def materialized(project: Project, stage: str, config: dict[str, Any]) -> dict[str, Any]:
    """Materialize one asset of the catalog, with a run config; its metadata."""
    everything = project.definitions().resolve_implicit_global_asset_job_def()
    key = dg.AssetKey(["products", stage])
    with project.instance() as instance:
        done = everything.execute_in_process(
            instance=instance,
            run_config=config,
            asset_selection=[key],
            partition_key="000" if stage == "images" else None,
        )
        (made,) = done.asset_materializations_for_node(f"products__{stage}")
    return {name: value.value for name, value in made.metadata.items()}


def documented() -> dict[str, Any]:
    """The run configuration that the page of the downloader shows."""
    blocks = [text.split("```")[0] for text in _PAGE.read_text().split("```yaml\n")[1:]]
    (block,) = (text for text in blocks if text.startswith("ops:"))
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def test_run_config_retries_permanent_failures(project: Project, web: Web) -> None:
    materialized(project, "items", {})
    materialized(project, "images", {})
    assert web.total_gets == 1
    materialized(project, "images", {})
    assert web.total_gets == 1
    materialized(project, "images", documented())
    assert web.total_gets == 2


def test_the_metadata_names_the_hosts_that_failed(project: Project, web: Web) -> None:
    materialized(project, "items", {})
    facts = materialized(project, "images", {})
    (host,) = [record.data for record in facts["host_stats"].records]
    assert (host["host"], host["images"], host["failed"]) == (web.address, 1, 1)
    assert host["failures"] == "http_404 1"
    assert facts["hosts_skipped"] == []


def test_the_metadata_counts_items_and_images_apart(project: Project, web: Web) -> None:
    web.pages |= {"/a.jpg": jpeg(1), "/b.jpg": jpeg(2)}
    shirt = "|".join(web.url(f"/{name}.jpg") for name in ("a", "gone", "b"))
    project.write("products.csv", f"id,url\nshirt,{shirt}\nshoe,{web.url('/gone.jpg')}\n")
    source = {"path": "products.csv", "separator": "|"}
    declare(project, web, source=source)
    materialized(project, "items", {})

    facts = materialized(project, "images", {})

    counts = ("items", "usable_items", "images", "dagster/row_count", "ok", "failed", "requested")
    assert [facts[name] for name in counts] == [2, 1, 4, 4, 2, 2, 4]
    shirt = "|".join(web.url(f"/{name}.jpg") for name in ("b", "a"))
    project.write("products.csv", f"id,url\nshirt,{shirt}\n")
    materialized(project, "items", {})
    facts = materialized(project, "images", {})
    after = ("items", "usable_items", "images", "requested", "removed_items", "removed_images")
    assert [facts[name] for name in after] == [1, 1, 2, 0, 1, 2]
    assert web.total_gets == 4


def test_unknown_retry_choice_is_rejected(project: Project) -> None:
    materialized(project, "items", {})
    config = {"ops": {"products__images": {"config": {"retry": "some"}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="not in enum type RetryChoice"):
        materialized(project, "images", config)
