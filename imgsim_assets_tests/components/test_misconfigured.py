"""Loading reports each mistake in a YAML file once, with the file, the key and the fix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.projects import Project

_CATALOG: dict[str, Any] = {
    "name": "products",
    "source": {"path": "products.csv"},
    "encoder": "hog_color",
}
_SUPPLIERS = _CATALOG | {"name": "suppliers", "source": "products.csv"}
_PAIR: dict[str, Any] = {"name": "pair", "left": "products", "right": "suppliers"}

CASES = {
    "unknown key": (
        _CATALOG | {"shard": 3},
        _PAIR,
        [
            "defs/products/defs.yaml:",
            "attributes.shard: unknown key 'shard'",
            "did you mean 'shards'?",
        ],
    ),
    "unknown nested key": (
        _CATALOG | {"source": {"path": "products.csv", "delimeter": ";"}},
        _PAIR,
        ["defs/products/defs.yaml:", "attributes.source", "did you mean 'delimiter'?"],
    ),
    "no shards": (
        _CATALOG | {"shards": 0},
        _PAIR,
        ["defs/products/defs.yaml:", "attributes.shards", "0 is too small; write 1 to 4096"],
    ),
    "threshold that is not a cosine": (
        _CATALOG,
        _PAIR | {"threshold": 2},
        [
            "defs/pair/defs.yaml:",
            "attributes.threshold",
            "2 is not a cosine; give -1 to",
        ],
    ),
    "cluster without an address": (
        _CATALOG,
        _PAIR | {"compute": "ray"},
        ["defs/pair/defs.yaml:", "attributes.compute: "],
    ),
    "name of something else": (
        _CATALOG | {"name": "duplicate_groups"},
        _PAIR | {"left": "duplicate_groups"},
        ["defs/products/defs.yaml:", "attributes.name", "holds groups across catalogs"],
    ),
    "report with nothing behind it": (
        _CATALOG | {"evaluation": None},
        _PAIR,
        [
            "defs/products/defs.yaml:",
            "attributes.evaluation",
            "write 'evaluation: {}' for the defaults",
        ],
    ),
    "unknown encoder": (
        _CATALOG | {"encoder": {"name": "hog_colr"}},
        _PAIR,
        ["defs/products/defs.yaml:", "attributes.encoder", "did you mean hog_color?"],
    ),
    "the same catalog twice": (
        _CATALOG,
        _PAIR | {"right": "products"},
        ["defs/pair/defs.yaml:", "attributes.right", "products/similarity_graph compares"],
    ),
    "unknown catalog": (
        _CATALOG,
        _PAIR | {"right": "product"},
        ["defs/pair/defs.yaml:", "attributes.right", "did you mean 'products'?"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_message_names_file_key_and_fix(case: str, tmp_path: Path) -> None:
    catalog, pair, expected = CASES[case]
    project = Project.make(tmp_path / "project")
    project.write("products.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    project.declare("products", "ImageCatalogComponent", catalog)
    suppliers = _SUPPLIERS | {"encoder": catalog["encoder"]}
    project.declare("suppliers", "ImageCatalogComponent", suppliers)
    project.declare("pair", "MatchMatrixComponent", pair)

    message = _refusal(project)

    for part in expected:
        assert part in message


def _refusal(project: Project) -> str:
    """The message with which the project does not load."""
    with pytest.raises(Exception, match="Error while") as raised:
        project.definitions()
    error: BaseException = raised.value
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def test_validation_ends_with_the_message(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    project.write("products.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    project.declare("products", "ImageCatalogComponent", _CATALOG | {"shard": 3})

    output = project.check_definitions()

    assert "Validation failed" in output
    cause = output.split("caused by the following exception:")[-1].split("Stack Trace")[0]
    assert cause.strip().endswith(_refusal(project))


def test_missing_list_fails_only_the_runs_of_its_own_catalog(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = Project.make(tmp_path / "project")
    project.write("products.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    project.declare("suppliers", "ImageCatalogComponent", _SUPPLIERS)
    project.declare("products", "ImageCatalogComponent", _CATALOG | {"source": "nowhere.csv"})

    everything = project.definitions().resolve_implicit_global_asset_job_def()

    problem = (
        r"defs/products/defs.yaml:\d+: attributes.source.path: there is no \S+nowhere.csv' .*; "
        "give the path of a file"
    )
    assert re.search(problem, caplog.text)
    with project.instance() as instance:
        for stage in ("source", "items"):
            with pytest.raises((SourceError, dg.Failure), match=problem):
                _run(everything, instance, ["products", stage])
            assert _run(everything, instance, ["suppliers", stage])


@pytest.mark.parametrize("is_validation", [False, True])
def test_misspelled_column_is_a_warning_where_definitions_are_checked(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    is_validation: bool,
) -> None:
    if is_validation:
        monkeypatch.setenv("DAGSTER_IS_DEFS_VALIDATION_CLI", "1")  # as `dg check defs` does
    project = Project.make(tmp_path / "project")
    project.write("products.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    source = {"path": "products.csv", "id": "sku"}
    project.declare("products", "ImageCatalogComponent", _CATALOG | {"source": source})

    project.definitions()

    assert ("no column 'sku'; set 'id:' to one of 'id', 'url'" in caplog.text) == is_validation


@pytest.mark.parametrize("pipelined", [False, True])
def test_weights_that_are_missing_fail_the_embeddings_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pipelined: bool
) -> None:
    project = Project.make(tmp_path / "project")
    project.write("products.csv", "id,url\n1,nowhere.jpg\n")
    encoder = {"name": "resnet18", "weights": "mine.pth"}
    declared = {"encoder": encoder, "shards": 1, "pipelined": pipelined}
    project.declare("products", "ImageCatalogComponent", _CATALOG | declared)

    everything = project.definitions().resolve_implicit_global_asset_job_def()

    problem = (
        r"defs/products/defs.yaml:\d+: attributes.encoder.weights: there is no file \S+mine.pth'; "
        "give the path of a state dict"
    )
    assert re.search(problem, caplog.text)
    with project.instance() as instance:
        for stage in ("source", "items", "images"):
            assert _run(everything, instance, ["products", stage])
        with pytest.raises(dg.Failure, match=problem):
            _run(everything, instance, ["products", "embeddings"])


def _run(job: dg.JobDefinition, instance: dg.DagsterInstance, key: list[str]) -> bool:
    done = job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(key)],
        partition_key="000" if key[-1] in ("images", "embeddings") else None,
    )
    return bool(done.success)


GROUPS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown catalog": (
        {"name": "all", "catalogs": ["products", "supplier"]},
        ["attributes.catalogs", "did you mean 'suppliers'?"],
    ),
    "one catalog twice": (
        {"name": "all", "catalogs": ["products", "products"]},
        ["attributes.catalogs", "'products' is listed twice; list it once"],
    ),
    "one catalog": (
        {"name": "all", "catalogs": ["products"]},
        ["attributes.catalogs", "two catalogs or more", "set 'groups: {}' of the catalog"],
    ),
    "other encoder": (
        {"name": "all", "catalogs": ["products", "suppliers"]},
        ["attributes.catalogs", "give both catalogs the same 'encoder'"],
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_invalid_groups_name_their_problem(case: str, tmp_path: Path) -> None:
    declared, expected = GROUPS[case]
    project = Project.make(tmp_path / "project")
    project.write("products.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    project.declare("products", "ImageCatalogComponent", _CATALOG)
    encoder = "resnet18" if case == "other encoder" else _CATALOG["encoder"]
    project.declare("suppliers", "ImageCatalogComponent", _SUPPLIERS | {"encoder": encoder})
    project.declare("all", "DuplicateGroupsComponent", declared)

    message = _refusal(project)

    for part in ["defs/all/defs.yaml:", *expected]:
        assert part in message


def test_two_encoders_cannot_be_matched(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    project.write("products.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    project.declare("products", "ImageCatalogComponent", _CATALOG)
    other = _CATALOG | {"name": "suppliers", "encoder": "resnet50"}
    project.declare("suppliers", "ImageCatalogComponent", other)
    project.declare("pair", "MatchMatrixComponent", _PAIR | {"right": "suppliers"})

    message = _refusal(project)

    assert "products is embedded by hog_color and suppliers by resnet50" in message
    assert "give both catalogs the same 'encoder'" in message


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {"observe_schedule": "always"},
            "attributes.observe_schedule: 'always' is not a cron expression; '*/5 * * * *' is "
            "every five minutes",
        ),
        ({"schedule": "0 0 30 2 *"}, "attributes.schedule: '0 0 30 2 *' names a date that never"),
        (
            {"schedule": "0 0 31 2,4 *"},
            "'0 0 31 2,4 *' names a date that never occurs; '0 3 * * *'",
        ),
        ({"schedule": "0 0 3 * * *"}, "'0 0 3 * * *' has 6 fields; write minute, hour, day, month"),
        ({"timezone": "Mars/Base"}, "attributes.timezone: 'Mars/Base' is not a time zone"),
        ({"schedule": "nightly"}, "attributes.schedule: 'nightly' is not a cron expression"),
        ({"owners": ["me"]}, "attributes.owners: 'me' is not an owner; write an e-mail address"),
        ({"tags": {"a b": "c"}}, "is not a tag; use at most 63 letters"),
    ],
)
def test_values_that_dagster_rejects_are_rejected_with_a_fix(
    attributes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    project = Project.make(tmp_path / "project")
    project.write("products.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    project.declare("products", "ImageCatalogComponent", _CATALOG | attributes)

    assert expected in _refusal(project)


def test_two_catalogs_of_one_name_are_rejected(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    project.write("products.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    project.declare("one", "ImageCatalogComponent", _CATALOG)
    project.declare("two", "ImageCatalogComponent", _CATALOG)

    assert "2 catalogs are named 'products'" in _refusal(project)


def test_templates_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCTS", "from_environment.csv")
    project = Project.make(tmp_path / "project")
    project.write("from_environment.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    source = {"path": "{{ env.PRODUCTS }}"}
    project.declare("products", "ImageCatalogComponent", _CATALOG | {"source": source})

    specs = {
        spec.key.to_user_string(): spec for spec in project.definitions().resolve_all_asset_specs()
    }

    assert specs["products/source"].metadata["path"] == "from_environment.csv"


def test_two_match_tables_of_one_name_are_rejected(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    project.write("products.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    for catalog in (_CATALOG, _SUPPLIERS):
        project.declare(catalog["name"], "ImageCatalogComponent", catalog)
    for folder in ("first", "second"):
        project.declare(folder, "MatchMatrixComponent", _PAIR)

    assert "2 match tables are named 'pair'; give each its own name" in _refusal(project)


def test_two_retention_components_are_rejected(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    for folder in ("first", "second"):
        project.declare(folder, "RetentionComponent", {"retain_last": 3})

    message = _refusal(project)

    assert "/defs.yaml:" in message
    assert "attributes: 2 components are a RetentionComponent" in message
