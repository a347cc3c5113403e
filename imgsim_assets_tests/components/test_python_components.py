"""Components declared in Python, and what a project changes about their assets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web

_CATALOG: dict[str, Any] = {"name": "products", "source": "list.csv", "encoder": "hog_color"}
_PAIR = {"name": "pair", "left": "products", "right": "suppliers"}
PYTHON = {
    "an instance": """
        import dagster as dg
        from imgsim_assets import CatalogSettings, ImageCatalogComponent, SourceSettings

        @dg.component_instance
        def suppliers(context: dg.ComponentLoadContext) -> ImageCatalogComponent:
            return ImageCatalogComponent(
                CatalogSettings(name="suppliers", source="list.csv", encoder="hog_color")
            )
        """,
    "an instance whose annotation is text": """
        from __future__ import annotations
        import dagster as dg
        from imgsim_assets import CatalogSettings, ImageCatalogComponent

        @dg.component_instance
        def suppliers(context: dg.ComponentLoadContext) -> ImageCatalogComponent:
            return ImageCatalogComponent(
                CatalogSettings(name="suppliers", source="list.csv", encoder="hog_color")
            )
        """,
    "an instance without annotation": """
        import dagster as dg
        from imgsim_assets import CatalogSettings, ImageCatalogComponent

        @dg.component_instance
        def suppliers(context):
            return ImageCatalogComponent(
                CatalogSettings(name="suppliers", source="list.csv", encoder="hog_color")
            )
        """,
    "a subclass": """
        import dagster as dg
        from imgsim_assets import CatalogSettings, ImageCatalogComponent

        class Feed(ImageCatalogComponent):
            def __init__(self, name: str) -> None:
                super().__init__(
                    CatalogSettings(name=name, source="list.csv", encoder="hog_color")
                )

        @dg.component_instance
        def suppliers(context: dg.ComponentLoadContext) -> Feed:
            return Feed("suppliers")
        """,
    "a composition": """
        import dagster as dg
        from imgsim_assets import CatalogSettings, ImageCatalogComponent

        class Marketplace(dg.Component):
            def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
                catalogs = [
                    ImageCatalogComponent(
                        CatalogSettings(name=name, source="list.csv", encoder="hog_color")
                    )
                    for name in ("suppliers", "retailers")
                ]
                return dg.Definitions.merge(*(each.build_defs(context) for each in catalogs))

        @dg.component_instance
        def marketplace(context: dg.ComponentLoadContext) -> Marketplace:
            return Marketplace()
        """,
    "definitions": """
        import dagster as dg
        from imgsim_assets import CatalogSettings, ImageCatalogComponent

        @dg.definitions
        def suppliers(context: dg.ComponentLoadContext) -> dg.Definitions:
            settings = CatalogSettings(name="suppliers", source="list.csv", encoder="hog_color")
            return ImageCatalogComponent(settings).build_defs(context)
        """,
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project.make(tmp_path / "project")
    made.write("list.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    return made


def _keys(project: Project) -> set[str]:
    definitions = project.definitions()
    definitions.get_repository_def()
    return {spec.key.to_user_string() for spec in definitions.resolve_all_asset_specs()}


# The name decides whether the file is loaded before or after the match table in defs/pair.
@pytest.mark.parametrize("file", ["a.py", "z.py"])
@pytest.mark.parametrize("case", PYTHON)
def test_a_match_table_sees_a_catalog_declared_in_python(
    case: str, file: str, project: Project
) -> None:
    project.declare("products", "ImageCatalogComponent", _CATALOG)
    project.declare("pair", "MatchMatrixComponent", _PAIR)
    project.write(f"shop/defs/{file}", PYTHON[case])

    assert {"products/index", "suppliers/index", "matches/pair"} <= _keys(project)


def test_a_project_without_yaml_loads(project: Project) -> None:
    (project.root / "shop/defs/automation/defs.yaml").unlink()
    project.write(
        "shop/defs/everything.py",
        """
        import dagster as dg
        from imgsim_assets import (
            CatalogSettings, ImageCatalogComponent, MatchMatrixComponent, MatchMatrixSettings,
        )

        @dg.definitions
        def everything(context: dg.ComponentLoadContext) -> dg.Definitions:
            components = [
                MatchMatrixComponent(MatchMatrixSettings(name="pair", left="a", right="b"))
            ]
            for name in ("a", "b"):
                settings = CatalogSettings(name=name, source="list.csv", encoder="hog_color")
                components.insert(0, ImageCatalogComponent(settings))
            return dg.Definitions.merge(*(each.build_defs(context) for each in components))
        """,
    )

    assert {"a/index", "b/index", "matches/pair"} <= _keys(project)


def test_a_name_is_unique_among_yaml_and_python(project: Project) -> None:
    project.declare("suppliers", "ImageCatalogComponent", _CATALOG | {"name": "suppliers"})
    project.write("shop/defs/a.py", PYTHON["a composition"])

    with pytest.raises(Exception, match="Error while building definitions") as raised:
        project.definitions()

    assert "2 catalogs are named 'suppliers'" in str(raised.value.__cause__)


def test_a_project_with_a_sensor_of_its_own_loads(project: Project) -> None:
    (project.root / "shop/defs/automation/defs.yaml").unlink()
    project.declare("products", "ImageCatalogComponent", _CATALOG)
    project.write(
        "shop/defs/sensor.py",
        """
        import dagster as dg

        own = dg.AutomationConditionSensorDefinition("own", target=dg.AssetSelection.all())
        """,
    )

    repository = project.definitions().get_repository_def()

    assert [sensor.name for sensor in repository.sensor_defs if "own" in sensor.name] == ["own"]


def test_translation_names_and_groups_assets_and_their_tables_stay(
    tmp_path: Path, web: Web
) -> None:
    shop = Shop.open(tmp_path, web, products=4, suppliers=4)
    shop.declare(
        translation={
            "key_prefix": ["eu", "{{ 'shop' }}"],
            "group_name": "eu_{{ spec.group_name }}",
            "owners": ["team:{{ spec.key.path[0] }}"],
            "tags": {"stage": "{{ spec.key.path[-1] }}"},
            "metadata": {"wiki": "https://wiki.example/{{ spec.key.path[-1] }}"},
        },
        pair={"translation": {"key": "pairs/{{ spec.key.path[-1] }}"}},
    )
    shop.project.write(
        "shop/defs/report.py",
        """
        from pathlib import Path

        import dagster as dg
        import polars as pl

        @dg.asset(
            ins={
                "items": dg.AssetIn(key=["eu", "shop", "products", "items"]),
                "matches": dg.AssetIn(key=["pairs", "pair"]),
            }
        )
        def report(items: pl.DataFrame, matches: pl.DataFrame) -> None:
            counts = f"{items.height} {matches.width}"
            Path(__file__).with_name("report.txt").write_text(counts)
        """,
    )

    assert shop.project.materialize()

    definitions = shop.project.definitions()
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    index = specs["eu/shop/products/index"]
    assert index.group_name == "eu_products"
    assert index.owners == ["team:products"]
    assert index.tags["stage"] == "index"
    assert index.tags["imgsim/automation"] == "on"
    assert index.metadata["wiki"] == "https://wiki.example/index"
    assert "suppliers/index" in specs
    matches = specs["pairs/pair"]
    upstream = {dep.asset_key.to_user_string() for dep in matches.deps}
    assert upstream == {"eu/shop/products/embeddings", "suppliers/index"}
    assert (shop.project.root / "shop/defs/report.txt").read_text().startswith("4 ")
    assert "products/items" in shop.project.store.table_names()
    rows = definitions.load_asset_value(
        ["eu", "shop", "products", "index"], python_type=pl.DataFrame
    )
    assert isinstance(rows, pl.DataFrame)


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_subclass_translates_specs_in_python(pipelined: bool, project: Project) -> None:
    project.write(
        "shop/feeds.py",
        """
        import dagster as dg
        import imgsim_assets

        class Feed(imgsim_assets.ImageCatalogComponent):
            def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
                spec = super().get_asset_spec(spec)
                return spec.replace_attributes(
                    key=spec.key.with_prefix("eu"), group_name="feeds", tags={}
                )
        """,
    )
    attributes = _CATALOG | {"pipelined": pipelined, "translation": {"owners": ["team:a"]}}
    defs_file = project.declare("products", "ImageCatalogComponent", attributes)
    text = defs_file.read_text().replace("imgsim_assets.ImageCatalogComponent", "shop.feeds.Feed")
    defs_file.write_text(text)
    project.declare("suppliers", "ImageCatalogComponent", _CATALOG | {"name": "suppliers"})
    project.declare("pair", "MatchMatrixComponent", _PAIR)

    definitions = project.definitions()

    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    images = specs["eu/products/images"]
    assert (images.group_name, images.owners) == ("feeds", ["team:a"])
    assert images.tags.get("imgsim/automation") == "on"
    upstream = {dep.asset_key.to_user_string() for dep in specs["matches/pair"].deps}
    assert upstream == {"eu/products/embeddings", "suppliers/index"}
    job = definitions.resolve_job_def("products_refresh")
    assert dg.AssetKey(["eu", "products", "images"]) in job.asset_layer.executable_asset_keys


@pytest.mark.parametrize(
    ("translation", "expected"),
    [
        (
            {"key_prefx": "eu"},
            "attributes.translation.key_prefx: unknown key 'key_prefx': did you mean",
        ),
        ({"group_name": "{{ spec.nothing }}"}, "attributes.translation.group_name"),
        ({"owners": "team:a"}, "attributes.translation.owners: 'team:a' is not a list"),
        ("{{ spec.key }}", "attributes.translation: the template gives AssetKey; it must give"),
        (
            {"key": "{{ spec.description or spec.key.to_user_string() }}"},
            "a key may depend on the spec's key, group_name, owners and tags only",
        ),
    ],
)
def test_invalid_translation_names_its_key(
    translation: Any, expected: str, project: Project
) -> None:
    project.declare("products", "ImageCatalogComponent", _CATALOG | {"translation": translation})

    with pytest.raises(Exception, match="Error while building definitions") as raised:
        project.definitions()

    assert expected in str(raised.value.__cause__)
