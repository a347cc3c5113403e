"""The store as a resource of the project: one for writers, the IO manager, and tests."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

import imgsim_assets
from imgsim_assets.cli.main import main
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.store import Store
from imgsim_assets.testing import with_store
from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.tables import put
from imgsim_assets_tests.support.web import Web

_ITEMS = dg.AssetKey(["products", "items"])


@pytest.fixture
def project(tmp_path: Path, web: Web) -> Project:
    made = Project.make(tmp_path / "project")
    made.write("products.csv", f"id,url\n1,{web.url('/a.jpg')}\n2,{web.url('/b.jpg')}\n")
    made.declare(
        "products",
        "ImageCatalogComponent",
        {
            "name": "products",
            "source": "products.csv",
            "encoder": "hog_color",
            "shards": 2,
            "download": {"allowed_hosts": [web.address], "retries": 0},
        },
    )
    return made


def _ingest(definitions: dg.Definitions, project: Project) -> None:
    job = definitions.resolve_implicit_global_asset_job_def()
    with project.instance() as instance:
        assert job.execute_in_process(instance=instance, asset_selection=[_ITEMS]).success


def test_without_a_declared_store_environment_variable_or_default_is_used(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ingest(project.definitions(), project)
    assert (project.root / "data/store/products/items").is_dir()

    monkeypatch.setenv("IMGSIM_STORE", "elsewhere")
    _ingest(project.definitions(), project)
    assert (project.root / "elsewhere/products/items").is_dir()


def test_writers_and_io_manager_use_the_declared_store(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_STORE", "not_used")
    monkeypatch.setenv("TABLES", "tables")
    project.declare("store", "StoreComponent", {"url": "{{ env.TABLES }}"})

    definitions = project.definitions()
    _ingest(definitions, project)

    assert "products/items" in Store.open(project.root / "tables").table_names()
    rows = definitions.load_asset_value(_ITEMS)
    assert isinstance(rows, pl.LazyFrame)
    assert rows.collect()["id"].to_list() == ["1", "2"]
    frame = definitions.load_asset_value(_ITEMS, python_type=pl.DataFrame)
    assert isinstance(frame, pl.DataFrame)
    assert not (project.root / "not_used").exists()


def test_a_store_without_conditional_writes_needs_a_single_writer(
    project: Project, nanio_root: str
) -> None:
    project.declare("store", "StoreComponent", {"url": nanio_root})
    with pytest.raises(dg.Failure, match="set 'single_writer: true' of the store"):
        _ingest(project.definitions(), project)
    assert Store.open(nanio_root).table_folders() == []

    project.declare("store", "StoreComponent", {"url": nanio_root, "single_writer": True})
    _ingest(project.definitions(), project)
    assert "products/items" in Store.open(nanio_root).table_names()


RESOURCES = {
    "resources of a file": """
        import dagster as dg
        import imgsim_assets

        @dg.definitions
        def resources():
            store = imgsim_assets.StoreResource(url={url!r})
            return dg.Definitions(resources={{"imgsim_store": store}})
        """,
    "a component in Python": """
        from __future__ import annotations
        import dagster as dg
        import imgsim_assets

        @dg.component_instance
        def store(context: dg.ComponentLoadContext) -> imgsim_assets.StoreComponent:
            return imgsim_assets.StoreComponent(imgsim_assets.StoreSettings(url={url!r}))
        """,
    "an IO manager, too": """
        import dagster as dg
        import imgsim_assets

        defs = dg.Definitions(
            resources={{
                "imgsim_store": imgsim_assets.StoreResource(url={url!r}),
                "imgsim_tables": imgsim_assets.TableIOManager(store={url!r}),
            }}
        )
        """,
}


@pytest.mark.parametrize("case", RESOURCES)
def test_a_project_that_defines_the_store_in_python_loads_and_uses_it(
    case: str, project: Project
) -> None:
    url = str(project.root / "own")
    project.write("shop/defs/resources.py", RESOURCES[case].format(url=url))

    definitions = project.definitions()
    _ingest(definitions, project)

    assert "products/items" in Store.open(url).table_names()
    assert definitions.load_asset_value(_ITEMS, python_type=pl.DataFrame).height == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", ["YAML", "a component in Python", "resources of a file"])
def test_shell_and_notebook_inside_the_project_use_its_store(
    case: str, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if case == "YAML":
        monkeypatch.setenv("TABLES", "tables")
        project.declare("store", "StoreComponent", {"url": "{{ env.TABLES }}"})
    else:
        text = RESOURCES[case].format(url=str(project.root / "tables"))
        project.write("shop/defs/resources.py", text)
    _ingest(project.definitions(), project)
    (project.root / "shop/deep").mkdir()
    monkeypatch.chdir(project.root / "shop/deep")

    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["store"] == str(project.root / "tables")
    if case == "YAML":
        assert imgsim_assets.read_table("products/items").collect().height == 2
    else:
        with pytest.raises(StoreError, match=r"resources\.py declares the store of this"):
            imgsim_assets.read_table("products/items")
        monkeypatch.setenv("IMGSIM_STORE", str(project.root / "tables"))
        assert imgsim_assets.read_table("products/items").collect().height == 2


def test_a_second_store_component_is_rejected(project: Project) -> None:
    for folder in ("first", "second"):
        project.declare(folder, "StoreComponent", {"url": folder})

    with pytest.raises(Exception, match="Error while building definitions") as raised:
        project.definitions()

    assert "2 components are a StoreComponent; keep one of them" in str(raised.value.__cause__)


def test_a_test_injects_its_own_store(project: Project, tmp_path: Path) -> None:
    injected = with_store(project.definitions(), tmp_path / "injected")

    _ingest(injected, project)

    assert "products/items" in Store.open(tmp_path / "injected").table_names()
    assert not (project.root / "data").exists()


def test_every_asset_with_a_table_is_loaded_by_a_plain_parameter(project: Project) -> None:
    project.write(
        "shop/defs/report.py",
        """
        from pathlib import Path

        import dagster as dg
        import polars as pl

        @dg.asset(ins={"items": dg.AssetIn(key=["products", "items"])})
        def report(context: dg.AssetExecutionContext, items: pl.DataFrame) -> None:
            again = context.load_asset_value(dg.AssetKey(["products", "items"]))
            assert again.collect().equals(items)
            Path(__file__).with_name("report.csv").write_text(items.write_csv())
        """,
    )
    definitions = project.definitions()
    _ingest(definitions, project)

    job = definitions.resolve_implicit_global_asset_job_def()
    with project.instance() as instance:
        done = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("report")])

    assert done.success
    assert pl.read_csv(project.root / "shop/defs/report.csv").height == 2
    table_keys = {
        spec.key
        for spec in definitions.resolve_all_asset_specs()
        if spec.key.path[-1] in {"items", "images", "embeddings", "index", "similarity_graph"}
    }
    for key in table_keys:
        asset = definitions.resolve_assets_def(key)
        assert asset.get_io_manager_key_for_asset_key(key) == "imgsim_tables"


def test_any_table_is_an_asset_of_another_location(store: Store) -> None:
    table = store.table("products/items", key="id")
    put(table, {"a": 1, "b": 2})
    spec = imgsim_assets.table_spec("products/items", key="eu/products/items")
    definitions = dg.Definitions(
        assets=[spec],
        resources={"imgsim_tables": imgsim_assets.TableIOManager(store=store.url)},
    )

    rows = definitions.load_asset_value(["eu", "products", "items"], python_type=pl.DataFrame)

    assert isinstance(rows, pl.DataFrame)
    assert rows.height == 2
