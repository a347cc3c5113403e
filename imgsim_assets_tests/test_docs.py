"""Every snippet and link of the README and of docs/ works as written."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import polars as pl
import pytest
import yaml

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderSettings, EvaluationSettings
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.pipeline.settings import (
    CatalogSettings,
    CheckSettings,
    DuplicateGroupsSettings,
    MatchMatrixSettings,
    RetentionSettings,
)
from imgsim_assets.settings import Settings
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.projects import Project

_ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PAGES = [
    "README.md",
    *sorted(str(path.relative_to(_ROOT)) for path in (_ROOT / "docs").rglob("*.md")),
]


def _blocks(page: str, language: str) -> list[str]:
    text = (_ROOT / page).read_text()
    return [body for kind, body in _BLOCK.findall(text) if kind == language]


@pytest.mark.parametrize("page", ["README.md", "docs/add_a_catalog.md"])
def test_yaml_of_page_loads(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB", "sqlite:///shop.db")
    project = Project.make(tmp_path / "project")
    project.write("data/shoes.csv", "sku,image_url\n1,http://127.0.0.1/a.jpg\n")
    blocks = [yaml.safe_load(block) for block in _blocks(page, "yaml")]
    documents = [block for block in blocks if "type" in block]
    for number, document in enumerate(documents):
        kind = document["type"].removeprefix("imgsim_assets.")
        attributes = document["attributes"]
        if "sql" in attributes.get("source", {}):  # the same catalog, from another source
            attributes = attributes | {"name": "queried"}
        project.declare(f"block{number}", kind, attributes)
    suppliers = documents[0]["attributes"] | {"name": "suppliers"}
    project.declare("suppliers", "ImageCatalogComponent", suppliers)

    keys = {spec.key.to_user_string() for spec in project.definitions().resolve_all_asset_specs()}

    assert {"shoes/index", "suppliers/index", "matches/shoes__suppliers"} <= keys


def test_templates_translation_and_python_of_add_a_catalog_page_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDS", "8")
    monkeypatch.setenv("IMAGE_HOSTS", "['images.internal']")
    project = Project.make(tmp_path / "project")
    project.write("data/shoes.csv", "sku,image_url\n1,http://127.0.0.1/a.jpg\n")
    page = "docs/add_a_catalog.md"
    blocks = [yaml.safe_load(block) for block in _blocks(page, "yaml")]
    attributes = {"name": "shoes", "source": "data/shoes.csv"}
    for block in blocks:
        attributes |= {} if "type" in block else block
    project.declare("shoes", "ImageCatalogComponent", attributes)
    feeds, test = _blocks(page, "python")
    project.write("shop/defs/feeds.py", feeds)
    names: dict[str, Any] = {}
    exec(compile(test, page, "exec", dont_inherit=True), names)
    names["test_two_shoes_are_in_the_index"](tmp_path / "documented")

    specs = {
        spec.key.to_user_string(): spec for spec in project.definitions().resolve_all_asset_specs()
    }

    images = specs["eu/shoes/images"]
    assert (images.group_name, images.tags["stage"]) == ("eu_shoes", "images")
    assert images.partitions_def is not None
    assert len(images.partitions_def.get_partition_keys()) == 8
    assert specs["boots/index"].group_name == "feeds"


def test_yaml_of_matching_page_loads(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    project.write("data/shoes.csv", "sku,image_url\n1,http://127.0.0.1/a.jpg\n")
    turned, pair, renamed, groups, across, index, approximate = (
        yaml.safe_load(block) for block in _blocks("docs/matching.md", "yaml")
    )
    for name in ("shoes", "suppliers", "shop", "stock"):
        attributes = groups["attributes"] | index | {"name": name}
        project.declare(name, "ImageCatalogComponent", attributes)
    project.write("data/supplier.csv", "Artikel,Marke,Bild\n1,A,http://127.0.0.1/a.jpg\n")
    project.declare("supplier", "ImageCatalogComponent", renamed["attributes"])
    project.declare("everything", "DuplicateGroupsComponent", across["attributes"])
    project.declare("shoes__suppliers", "MatchMatrixComponent", pair["attributes"])
    project.declare("shop__stock", "MatchMatrixComponent", turned["attributes"])
    project.declare("stock__shop", "MatchMatrixComponent", approximate["attributes"])

    keys = {spec.key.to_user_string() for spec in project.definitions().resolve_all_asset_specs()}

    assert {
        "matches/shop__stock",
        "shoes/duplicate_groups",
        "duplicate_groups/everything",
        "matches/shoes__suppliers",
        "matches/stock__shop",
    } <= keys


@pytest.mark.parametrize(
    ("items", "compared"), [(10**6, 1.0), (10**7, 1.0), (10**8, 0.01), (10**9, 0.001)]
)
def test_arithmetic_of_costs_gives_their_table(items: int, compared: float) -> None:
    (block,) = _blocks("docs/scale_out.md", "python")
    block = block.replace("items = 10**7", f"items = {items}")
    block = block.replace("compared = 1.0", f"compared = {compared}")
    names: dict[str, Any] = {}
    exec(compile(block, "docs/scale_out.md", "exec", dont_inherit=True), names)

    text = (_ROOT / "docs/scale_out.md").read_text()
    start = f"| 10^{len(str(items)) - 1} |"
    _, row = (line for line in text.splitlines() if line.startswith(start))
    told = [float(price.replace(",", "")) for price in re.findall(r"\$([\d.,]+)", row)]
    images, matches = (names[key] * names["vcpu_hour"] for key in ("images", "joins"))
    on_gpu, s3 = names["gpu_hours"] * names["gpu_hour"], names["gigabytes"] * 0.023
    expected = {
        10**6: [images + matches, s3],
        10**7: [images + matches, s3],
        10**8: [images, on_gpu, images, matches, s3],
        10**9: [images, matches, s3],
    }
    assert told == pytest.approx(expected[items], rel=0.05)


def test_yaml_of_compute_page_is_valid() -> None:
    pair, catalog = (yaml.safe_load(block) for block in _blocks("docs/compute.md", "yaml"))

    assert MatchMatrixSettings(**pair["attributes"]).compute.engine == "ray"
    assert CatalogSettings(**catalog["attributes"]).compute.cpus_per_task == 4


def test_yaml_of_evidence_page_has_the_defaults() -> None:
    (pair,) = (yaml.safe_load(block) for block in _blocks("docs/evidence.md", "yaml"))

    settings = MatchMatrixSettings.model_validate(pair["attributes"])

    assert settings.evidence == EvidenceSettings(compute=True, strict=False)


def test_encoders_of_encoders_page_are_valid_settings() -> None:
    builtin, libraries, *_ = _blocks("docs/encoders.md", "yaml")
    lines = [line for line in (builtin + libraries).splitlines() if line.startswith("encoder:")]

    declared = [yaml.safe_load(line)["encoder"] for line in lines]

    assert len(declared) == 14
    for encoder in declared:
        EncoderSettings.model_validate({"name": encoder} if isinstance(encoder, str) else encoder)


def test_evaluation_and_auto_threshold_of_encoders_page_load(tmp_path: Path) -> None:
    _, _, pair, evaluation = (yaml.safe_load(b) for b in _blocks("docs/encoders.md", "yaml"))
    project = Project.make(tmp_path / "project")
    project.write("items.csv", "id,url,brand\n1,http://127.0.0.1/a.jpg,x\n")
    for name in ("products", "suppliers"):
        catalog = {"source": {"path": "items.csv"}, **evaluation, "name": name}
        project.declare(name, "ImageCatalogComponent", catalog)
    project.declare("pair", "MatchMatrixComponent", pair["attributes"])

    keys = {spec.key.to_user_string() for spec in project.definitions().resolve_all_asset_specs()}

    assert {"products/encoder_evaluation", "matches/products__suppliers"} <= keys


@pytest.mark.parametrize(
    ("page", "number"),
    [
        (page, number)
        for page in ("README.md", "docs/consume.md", "docs/matching.md")
        for number, _ in enumerate(_blocks(page, "python"))
    ],
)
def test_python_of_page_runs(
    page: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "data/store")
    products = pl.DataFrame({"id": ["p"], "url": ["u"], "title": ["t"]})
    for name in ("products/items", "suppliers/items"):
        _commit(store, name, products)
    matches = {"left_id": "p", "right_id": "s", "similarity": 0.97, "rank": 1}
    images = {"left_sha256": "a", "right_sha256": "b"}
    inputs = {"products/items": 1, "suppliers/items": 1}
    _commit(store, "matches/products__suppliers", pl.DataFrame([matches | images]), inputs)
    monkeypatch.chdir(tmp_path)

    names: dict[str, object] = {}
    exec(compile(_blocks(page, "python")[number], page, "exec", dont_inherit=True), names)

    if "defs" in names:
        job = names["defs"].resolve_implicit_global_asset_job_def()  # type: ignore[attr-defined]
        assert job.execute_in_process().success
    if "price_list" in names and "defs" in names:
        assert (tmp_path / "price_list.csv").read_text() == "left_id,title,right_id\np,t,s\n"
    if "match_changes" in names:
        assert (tmp_path / "match_changes_000001.csv").read_text().startswith("change,left_id")
    if "traced" in names:
        (row,) = names["traced"].collect().to_dicts()  # type: ignore[attr-defined]
        assert (row["left_sha256"], row["right_catalog_version"]) == ("a", "1")


def _commit(
    store: Store, name: str, rows: pl.DataFrame, inputs: Mapping[str, int] | None = None
) -> DataFile:
    file = store.table(name).write_rows(rows)
    store.table(name).commit(partial(_pending_commit, [file], inputs or {}))
    return file


def _pending_commit(
    files: list[DataFile], inputs: Mapping[str, int], base: Commit | None
) -> PendingCommit:
    return PendingCommit(files, inputs=inputs)


def test_sql_of_consume_page_reads_newest_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "data/store")
    rows = pl.DataFrame({"left_id": ["p"], "right_id": ["s"], "similarity": [0.97]})
    for part in (rows.clear(), rows):  # an older version and the newest one
        _commit(store, "matches/products__suppliers", part)
    monkeypatch.chdir(tmp_path)
    (block,) = _blocks("docs/consume.md", "sql")
    *settings, query, _ = block.split(";")

    with duckdb.connect() as connection:
        for statement in settings:
            connection.execute(statement)
        assert connection.sql(query).fetchall() == rows.rows()


@pytest.mark.parametrize("page", ["docs/operate.md", "docs/backfill.md", "docs/scale_out.md"])
def test_yaml_of_operator_page_loads(page: str, tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    project.write("data/products.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    document = yaml.safe_load(_blocks(page, "yaml")[-1])
    kind = document["type"].removeprefix("imgsim_assets.")

    project.declare("block", kind, document["attributes"])

    project.definitions().get_repository_def()


def test_pools_of_schedule_page_equal_shipped_dagster_yaml() -> None:
    shipped = yaml.safe_load((_ROOT / "data/dagster_home/dagster.yaml").read_text())
    sensor, pools = (yaml.safe_load(block) for block in _blocks("docs/schedule.md", "yaml"))

    assert sensor["type"] == "imgsim_assets.AutomationComponent"
    assert shipped["concurrency"] == pools["concurrency"]


def test_command_of_schedule_page_sets_pool_limit(tmp_path: Path) -> None:
    shutil.copy(_ROOT / "data/dagster_home/dagster.yaml", tmp_path)
    line = _blocks("docs/schedule.md", "bash")[-1]
    program, *arguments = shlex.split(line)
    subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        check=True,
    )

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        limits = instance.event_log_storage.get_pool_limits()
    assert {pool.name: pool.limit for pool in limits} == {"gpu": 1}


@pytest.mark.parametrize(
    ("settings", "page"),
    [
        (CatalogSettings, "docs/add_a_catalog.md"),
        (CheckSettings, "docs/add_a_catalog.md"),
        (SourceSettings, "docs/add_a_catalog.md"),
        (GraphSettings, "docs/add_a_catalog.md"),
        (MatchMatrixSettings, "docs/add_a_catalog.md"),
        (DownloadSettings, "docs/download.md"),
        (EncoderSettings, "docs/encoders.md"),
        (EvaluationSettings, "docs/encoders.md"),
        (IndexSettings, "docs/matching.md"),
        (GroupSettings, "docs/matching.md"),
        (DuplicateGroupsSettings, "docs/matching.md"),
        (RetentionSettings, "docs/operate.md"),
    ],
)
def test_every_key_of_settings_is_documented(settings: type[Settings], page: str) -> None:
    # A key stands in backticks, at the start of a YAML line, or first in a YAML mapping.
    keys = set(re.findall(r"[`{, ]([a-z_]+)(?=`|:|, [a-z_]+}|}`)", (_ROOT / page).read_text()))
    keys |= set(re.findall(r"^ *([a-z_]+):", (_ROOT / page).read_text(), re.MULTILINE))

    assert set(settings.model_fields) - keys == set()


def test_stage_classes_of_architecture_page_exist() -> None:
    text = (_ROOT / "docs/architecture.md").read_text()
    stages = re.findall(r"`([a-z_.]+)\.([A-Z]\w+Stage)`", text)

    assert len(stages) == 8
    for module, name in stages:
        assert hasattr(importlib.import_module(f"imgsim_assets.{module}"), name)


@pytest.mark.parametrize("page", _PAGES)
def test_anchors_of_page_are_headings(page: str) -> None:
    path = _ROOT / page
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text())
    missing = [
        (target, anchor)
        for target, anchor in links
        if anchor not in _anchors((path.parent / target) if target else path)
    ]
    assert not missing


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", _PAGES)
def test_links_of_page_have_targets(page: str) -> None:
    text = (_ROOT / page).read_text()
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    missing = [
        target
        for target in targets
        if "://" not in target and not ((_ROOT / page).parent / target).exists()
    ]
    assert not missing


def test_make_targets_of_pages_exist() -> None:
    pages = "".join((_ROOT / page).read_text() for page in ("README.md", "docs/consume.md"))
    used = set(re.findall(r"(?:^|`)make ([a-z-]+)", pages, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))
    assert used <= targets, used - targets


def test_benchmark_modules_of_pages_exist() -> None:
    pages = "".join((_ROOT / page).read_text() for page in _PAGES)
    modules = set(re.findall(r"python -m (benchmarks\.\w+)", pages))

    assert modules
    assert not [name for name in modules if importlib.util.find_spec(name) is None]


def test_no_page_contains_a_path_of_this_machine() -> None:
    pages = [path for path in _ROOT.rglob("*.md") if ".venv" not in path.parts]
    assert not [page for page in pages if os.fspath(_ROOT) in page.read_text()]
