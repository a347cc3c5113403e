"""Templates in YAML files, in every key, and secrets, which nothing shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from jsonschema import Draft202012Validator

from imgsim_assets.components.image_catalog.component import ImageCatalogComponent
from imgsim_assets.components.match_matrix.component import MatchMatrixComponent
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.web import Web

_SECRET = "s3cret-Pa55"
_ENVIRONMENT = {
    "SHARDS": "3",
    "PIPELINED": "true",
    "HOSTS": "['127.0.0.1:8080', 'images.internal']",
    "VERSION": "1",
    "PROXY": f"http://me:{_SECRET}@127.0.0.1:3128",
    "RATE": "0.25",
    "ENCODER": "resnet18",
}
_DECLARED: dict[str, Any] = {
    "name": "{{ 'products' }}",
    "source": {"path": "{{ env('LIST', 'products.csv') }}", "header": "{{ env.PIPELINED }}"},
    "shards": "{{ env.SHARDS | int }}",
    "pipelined": "{{ env.PIPELINED == 'true' }}",
    "encoder": {"name": "{{ env.ENCODER }}", "weights": "{{ env.ENCODER }}.pth"},
    "download": {
        "allowed_hosts": "{{ env.HOSTS }}",
        "proxy": "{{ env.PROXY }}",
        "retries": "{{ env.VERSION }}",
    },
    "checks": {"min_success_rate": "{{ env.RATE }}"},
    "graph": {"threshold": "{{ none }}", "k": "{{ 2 * 3 }}"},
    "schedule": "{{ env.NOT_SET }}",
    "owners": ["{{ 'team:' ~ env.ENCODER }}"],
    "tags": {"version": "{{ env.VERSION }}"},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    made = Project.make(tmp_path / "project")
    made.write("products.csv", "id,url\n1,http://shop.example/a.jpg\n")
    made.write("resnet18.pth", "")
    return made


def _load(attributes: dict[str, Any]) -> CatalogSettings:
    return ImageCatalogComponent.from_attributes_dict(attributes=attributes).settings


def test_every_kind_of_key_takes_a_template(project: Project) -> None:
    settings = _load(_DECLARED)

    assert settings.shards == 3
    assert settings.pipelined is True
    assert (settings.encoder.name, settings.encoder.weights) == ("resnet18", "resnet18.pth")
    assert settings.download.allowed_hosts == ("127.0.0.1:8080", "images.internal")
    assert settings.download.retries == 1
    assert settings.download.proxy is not None
    assert settings.download.proxy.get_secret_value() == _ENVIRONMENT["PROXY"]
    assert settings.checks.min_success_rate == 0.25
    assert (settings.graph.threshold, settings.graph.k) == (None, 6)
    assert settings.schedule is None
    assert settings.owners == ("team:resnet18",)
    assert settings.tags == {"version": "1"}


def test_template_of_a_mapping_takes_the_place_of_its_keys(project: Project) -> None:
    whole = "{{ {'name': 'mine', 'factory': 'pkg.mod:make', 'version': env.VERSION} }}"

    encoder = _load({"name": "a", "source": "{{ 'a' }}.csv", "encoder": whole}).encoder

    assert (encoder.factory, encoder.version) == ("pkg.mod:make", "1")


@pytest.mark.parametrize("password", ["1e5", "007", "None", "[1]", "{'a': 1}", "True", "1.10"])
def test_text_that_looks_like_a_literal_stays_text(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALUE", password)
    encoder = {"name": "mine", "factory": "pkg.mod:make", "version": "v {{ env.VALUE }}"}

    settings = _load({"name": "a", "source": "a.csv", "encoder": encoder})

    assert settings.encoder.version == f"v {password}"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"shards": "{{ env.ENCODER }}"},
            "attributes.shards: '{{ env.ENCODER }}' is not a whole number; write 1 to 4096",
        ),
        (
            {"shards": "{{ env.NOT_SET | int }}"},
            "attributes.shards: .* is too small; write 1 to",
        ),
        ({"shards": "{{ shardz }}"}, "cannot be resolved: UndefinedError: 'shardz'"),
        ({"shards": "{{ 1 / 0 }}"}, "attributes.shards: the template '{{ 1 / 0 }}' cannot be"),
        ({"download": {"proxy": "{{ env.ENCODER }}"}}, "attributes.download.proxy: write it as"),
        ({"shards": "four"}, "attributes.shards: 'four' is not a whole number; write 1"),
        ({"source": None}, "attributes.source"),
    ],
)
def test_error_of_a_template_names_its_key(
    changed: dict[str, Any], expected: str, project: Project
) -> None:
    project.declare("products", "ImageCatalogComponent", _DECLARED | changed)

    with pytest.raises(Exception, match="Error while loading component") as raised:
        project.definitions()

    cause = str(raised.value.__cause__)
    assert cause.startswith("shop/defs/products/defs.yaml:")
    assert re.search(expected, cause), cause


def test_dg_checks_accept_templates_and_reject_other_text(project: Project) -> None:
    project.declare("products", "ImageCatalogComponent", _DECLARED | {"shards": "four"})

    code, output = _dg(project, "check", "yaml")

    assert code == 1
    assert "'four' is not one of ['a whole number, 1 to 4096']" in output
    assert output.count("defs.yaml:") == 1
    assert _SECRET not in output


@pytest.mark.parametrize(
    ("component", "declared", "expected"),
    [
        (
            MatchMatrixComponent,
            {"method": "exactt"},
            "method: 'exactt' is not one of ['exact', 'approximate']",
        ),
        (MatchMatrixComponent, {"threshold": 2}, "threshold: 2 is greater than the maximum of 1"),
        (
            MatchMatrixComponent,
            {"compute": "rya"},
            "compute: 'rya' is not one of ['local', 'ray', 'a mapping']",
        ),
        (
            ImageCatalogComponent,
            {"groups": {"linkage": "star", "canonical": ["{{ env.RULE }}", "bytes"]}},
            "groups.canonical.1: 'bytes' is not one of "
            "['largest_resolution', 'largest_file', 'first_seen']",
        ),
        (
            ImageCatalogComponent,
            {"groups": {"linked": "star"}},
            "groups: Additional properties are not allowed ('linked' was unexpected)",
        ),
        (
            ImageCatalogComponent,
            {"groups": "yes"},
            "groups: 'yes' is not one of ['a mapping', 'null']",
        ),
        (
            MatchMatrixComponent,
            {"threshold": "high"},
            "threshold: 'high' is not one of ['a number, -1 to 1', 'auto', 'recommended', 'null']",
        ),
        (
            MatchMatrixComponent,
            {"compute": {"memory_budget_mib": "64MB"}},
            "compute.memory_budget_mib: '64MB' is not one of "
            "['a whole number of MiB, at least 16']",
        ),
        (MatchMatrixComponent, {"method": 5}, "method: 5 is not one of ['exact', 'approximate']"),
        (
            MatchMatrixComponent,
            {"automation": "maybe"},
            "automation: 'maybe' is not one of ['true', 'false']",
        ),
        (MatchMatrixComponent, {"within": "brand"}, "within: 'brand' is not one of ['a list']"),
        (
            MatchMatrixComponent,
            {"max_shared": 2.5},
            "max_shared: 2.5 is not one of ['a whole number, at least 1', 'null']",
        ),
    ],
)
def test_error_of_the_schema_names_the_key_and_what_is_allowed(
    component: type[dg.Component], declared: dict[str, Any], expected: str
) -> None:
    model = component.get_model_cls()
    assert model is not None
    schema = model.model_json_schema() | {"required": []}

    errors = Draft202012Validator(schema).iter_errors(declared)

    found = [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]
    assert found == [expected]


@pytest.mark.slow
def test_dg_check_defs_loads_templates(project: Project) -> None:
    project.declare("products", "ImageCatalogComponent", _DECLARED)

    code, output = _dg(project, "check", "defs")

    assert (code, _SECRET in output) == (0, False), output


def _dg(project: Project, *arguments: str) -> tuple[int, str]:
    folder = str(Path(sys.executable).parent)
    done = subprocess.run(
        [f"{folder}/dg", *arguments],
        cwd=project.root,
        env=project.environment(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("proxy", f"ftp://me:{_SECRET}@proxy"),
        ("proxy", {"url": f"http://me:{_SECRET}@proxy"}),
        ("proxy", [_SECRET]),
        ("proxy", "{{ 'ftp://me:' ~ env.SECRET ~ '@proxy' }}"),
        ("proxy", "{{ env.SECRET.nothing.at_all }}"),
        ("proxy", "{{ env.SECRET | int('x') + 'y' }}"),
        ("headers", f"Bearer {_SECRET}"),
        ("headers", {"Host": "{{ env.SECRET }}"}),
        ("headers", {"Authorization": "{{ env.SECRET ~ '\n' }}"}),
        ("headers", {"Authorization": [_SECRET]}),
        ("connection", [_SECRET]),
        ("connection", "{{ env.SECRET.nothing.at_all }}"),
    ],
)
def test_invalid_secret_is_in_no_message(
    key: str, value: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", _SECRET)
    group = "source" if key == "connection" else "download"
    query = {"sql": "select 1"} if key == "connection" else {}
    declared = _DECLARED | {group: query | {key: value}}
    project.declare("products", "ImageCatalogComponent", declared)

    with pytest.raises(Exception, match="Error while loading component") as raised:
        project.definitions()

    message = ""
    error: BaseException | None = raised.value
    while error is not None:
        message += f"{error}\n"
        error = error.__cause__ or error.__context__
    assert f"attributes.{group}" in message
    assert _SECRET not in message


def test_schema_shows_no_value_of_a_secret_key() -> None:
    declared = ImageCatalogComponent.get_model_cls()
    assert declared is not None
    download = declared.model_json_schema()["properties"]["download"]
    for key in ("proxy", "headers"):
        schema = download["anyOf"][0]["properties"][key]
        assert set(schema) <= {"title", "description", "default", "format", "writeOnly"}
        assert schema["description"]


@pytest.mark.parametrize("component", [ImageCatalogComponent, MatchMatrixComponent])
def test_every_key_of_the_schema_has_its_description(component: type[dg.Component]) -> None:
    model = component.get_model_cls()
    assert model is not None

    assert _undescribed(model.model_json_schema()) == []


def _undescribed(schema: dict[str, Any]) -> list[str]:
    """The keys without a description, of nested mappings too."""
    found = [key for key, field in schema["properties"].items() if not field.get("description")]
    for key, field in schema["properties"].items():
        for choice in field.get("anyOf", []):
            if "properties" in choice:
                found += [f"{key}.{inner}" for inner in _undescribed(choice)]
    return found


@pytest.mark.parametrize("given", ["literal", "template"])
def test_a_run_leaves_no_secret_anywhere(
    given: str,
    tmp_path: Path,
    web: Web,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    secret_url = f"http://me:{_SECRET}@{web.address}"
    monkeypatch.setenv("PROXY", secret_url)
    monkeypatch.setenv("TOKEN", _SECRET)
    for number in range(3):
        web.pages[f"http://shop.example/{number}.jpg"] = jpeg(number)
    project = Project.make(tmp_path / "project")
    rows = "".join(f"{number},http://shop.example/{number}.jpg\n" for number in range(4))
    project.write("list.csv", f"id,url\n{rows}")
    declared = {
        "name": "products",
        "source": "list.csv",
        "shards": 1,
        "encoder": "hog_color",
        "download": {
            "retries": 0,
            "proxy": secret_url if given == "literal" else "{{ env.PROXY }}",
            "headers": {"X-Token": _SECRET if given == "literal" else "{{ env.TOKEN }}"},
        },
    }
    defs_file = project.declare("products", "ImageCatalogComponent", declared)

    assert project.materialize()

    assert web.total_gets >= 4
    printed = capfd.readouterr()
    assert _SECRET not in printed.out + printed.err
    holding = [
        path
        for path in project.root.rglob("*")
        if path.is_file() and path != defs_file and _SECRET.encode() in path.read_bytes()
    ]
    assert holding == []
