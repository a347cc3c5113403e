"""What `dg scaffold defs` writes, and what `dg` says about the components."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import dagster as dg
import pytest
import yaml

import imgsim_assets
from imgsim_assets.components.scaffolding import SettingsScaffolder
from imgsim_assets_tests.support.projects import Project

_COMPONENTS = [
    "AutomationComponent",
    "DuplicateGroupsComponent",
    "ImageCatalogComponent",
    "MatchMatrixComponent",
    "RetentionComponent",
    "StoreComponent",
]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project.make(tmp_path / "project")
    made.write("data/shoes.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    (made.root / "shop/defs/automation/defs.yaml").unlink()
    return made


def _scaffold(
    project: Project, component: str, folder_name: str, style: str = "yaml", **params: Any
) -> Path:
    """What `dg scaffold defs` does in the project's environment."""
    kind = getattr(imgsim_assets, component)
    scaffolder: SettingsScaffolder = getattr(kind, "__scaffolder_cls__")()  # noqa: B009
    folder = project.root / "shop/defs" / folder_name
    folder.mkdir(parents=True, exist_ok=True)
    request: dg.ScaffoldRequest[Any] = dg.ScaffoldRequest(
        type_name=f"imgsim_assets.{component}",
        target_path=folder,
        scaffold_format=style,  # type: ignore[arg-type]
        project_root=project.root,
        params=scaffolder.get_scaffold_params()(**params),
    )
    scaffolder.scaffold(request)
    return next(folder.iterdir())


@pytest.mark.parametrize("style", ["yaml", "python"])
def test_scaffolded_components_load(style: str, project: Project) -> None:
    _scaffold(project, "ImageCatalogComponent", "shoes", style, source="data/shoes.csv")
    _scaffold(
        project,
        "ImageCatalogComponent",
        "b",
        style,
        source="data/shoes.csv",
        name="boots",
        shards=2,
    )
    _scaffold(project, "MatchMatrixComponent", "shoes__boots", style, threshold=0.9)
    _scaffold(project, "MatchMatrixComponent", "pair", style, left="boots", right="shoes")
    _scaffold(project, "DuplicateGroupsComponent", "all", style, catalogs=["shoes", "boots"])
    _scaffold(project, "StoreComponent", "store", style, url="tables")
    _scaffold(project, "RetentionComponent", "retention", style, retain_last=3)
    _scaffold(project, "AutomationComponent", "automation", style)

    definitions = project.definitions()
    repository = definitions.get_repository_def()

    keys = {spec.key.to_user_string() for spec in definitions.resolve_all_asset_specs()}
    assert {"shoes/index", "boots/index", "matches/shoes__boots", "matches/pair"} <= keys
    assert "duplicate_groups/all" in keys
    assert [sensor.name for sensor in repository.sensor_defs if "automation" in sensor.name] == [
        "imgsim_automation"
    ]


def test_scaffolded_yaml_lists_every_other_key_with_its_default_and_meaning(
    project: Project,
) -> None:
    written = _scaffold(project, "ImageCatalogComponent", "shoes", source="data/shoes.csv")

    text = written.read_text()
    assert yaml.safe_load(text)["attributes"] == {
        "name": "shoes",
        "source": {"path": "data/shoes.csv"},
    }
    assert "  # shards: 4  # partitions that the items are split into" in text
    for key in imgsim_assets.CatalogSettings.model_fields:
        assert f"  {key}:" in text or f"  # {key}: " in text
    uncommented = yaml.safe_load(re.sub(r"(?m)^  # ", "  ", text))
    settings = uncommented["attributes"]
    assert settings.pop("evaluation") is None
    assert settings.pop("groups") is None
    assert imgsim_assets.CatalogSettings.model_validate(settings).shards == 4


def test_template_without_a_list_loads_with_a_warning(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    _scaffold(project, "ImageCatalogComponent", "my-boots")

    keys = {spec.key.to_user_string() for spec in project.definitions().resolve_all_asset_specs()}

    assert "my_boots/index" in keys
    assert "shop/defs/my-boots/defs.yaml:5: attributes.source.path: there is no" in caplog.text
    assert "data/my_boots.csv" in caplog.text


@pytest.mark.parametrize(
    ("component", "params", "expected"),
    [
        ("MatchMatrixComponent", {}, "with --left and --right, or by a folder LEFT__RIGHT"),
        ("DuplicateGroupsComponent", {"catalogs": ["a"]}, "name two catalogs or more"),
        ("ImageCatalogComponent", {"shards": 0}, "shards"),
    ],
)
def test_parameters_that_declare_nothing_are_rejected(
    component: str, params: dict[str, Any], expected: str, project: Project
) -> None:
    with pytest.raises(click.UsageError, match=expected):
        _scaffold(project, component, "folder", **params)


def test_dg_scaffolds_with_parameters_and_shows_every_key(project: Project) -> None:
    command = ["scaffold", "defs", "imgsim_assets.ImageCatalogComponent", "shoes"]
    scaffolded = _dg(project, *command, "--source", "data/shoes.csv")
    schema = _dg(
        project,
        "utils",
        "inspect-component",
        "imgsim_assets.ImageCatalogComponent",
        "--defs-yaml-json-schema",
    )

    assert scaffolded.returncode == 0, scaffolded.stderr
    assert (project.root / "shop/defs/shoes/defs.yaml").is_file()
    shown = json.loads(schema.stdout[schema.stdout.index("{") :])["properties"]["attributes"][
        "properties"
    ]
    assert set(shown) == set(imgsim_assets.CatalogSettings.model_fields)
    assert all(field["description"] for field in shown.values())


@pytest.mark.parametrize("component", _COMPONENTS)
def test_every_component_has_a_scaffolder_and_a_description(component: str) -> None:
    kind = getattr(imgsim_assets, component)

    params = getattr(kind, "__scaffolder_cls__").get_scaffold_params()  # noqa: B009

    assert kind.get_description()
    assert all(field.description for field in params.model_fields.values())


def _dg(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder = str(Path(sys.executable).parent)
    (project.home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\nnux: {enabled: false}\n"
    )
    return subprocess.run(
        [f"{folder}/dg", *arguments],
        cwd=project.root,
        env=project.environment(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        check=False,
    )
