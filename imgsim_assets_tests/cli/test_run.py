"""`imgsim run` on a real project, in this process and through the instance that records it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from imgsim_assets.catalog.stage import rejects_table
from imgsim_assets.components.local_run import LocalRun, LocalRunReport
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.pipeline.freshness import Freshness, embeddings_freshness, index_freshness
from imgsim_assets.pipeline.repair import repair
from imgsim_assets.pipeline.verify import verify
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.damage import (
    flip_bit,
    recompute_with_rounding_difference,
    vectors_of,
)
from imgsim_assets_tests.support.materialized_shops import MaterializedShops
from imgsim_assets_tests.support.shell import Shell
from imgsim_assets_tests.support.shop import Shop, versions
from imgsim_assets_tests.support.tables import latest_commit
from imgsim_assets_tests.support.web import Web

ALL = ["products", "suppliers", "matches/pair"]


@pytest.fixture
def shop(tmp_path: Path, web: Web) -> Shop:
    return Shop.open(tmp_path, web, products=5, suppliers=3)


@pytest.fixture
def materialized_shop(materialized_shops: MaterializedShops) -> Shop:
    return materialized_shops.restore(Shop.open)


def _run(shop: Shop, *names: str) -> LocalRunReport:
    with shop.project.instance() as instance:
        return LocalRun(shop.project.definitions(), instance).run(names)


def _runs(shop: Shop) -> int:
    with shop.project.instance() as instance:
        return len(instance.get_run_records())


def test_second_run_only_observes_the_sources(materialized_shop: Shop) -> None:
    shop = materialized_shop
    before = (_runs(shop), versions(shop.project.store), shop.web.total_gets)

    assert _run(shop).up_to_date == ALL

    assert (_runs(shop) - 1, versions(shop.project.store), shop.web.total_gets) == before


def _change_row(shop: Shop) -> None:
    shop.put_item("new", 100)


def _change_graph(shop: Shop) -> None:
    shop.declare(graph={"k": 2})


def _lose_index(shop: Shop) -> None:
    for commit in (Path(shop.project.store.url) / "products/index/_commits").iterdir():
        commit.unlink()


def _lose_history(shop: Shop) -> None:
    with shop.project.instance() as instance:
        instance.wipe_assets([dg.AssetKey(["products", "similarity_graph"])])


def _damage(store: Store, table: Table) -> None:
    flip_bit(store, table, latest_commit(table).files_with_role()[0])


def _repair_vectors(shop: Shop) -> None:
    _damage(shop.project.store, vectors_of(shop.project.store, "products").table)
    repair(shop.project.store)


def _repair_embeddings(shop: Shop) -> None:
    _damage(shop.project.store, embeddings_table(shop.project.store, "products"))
    repair(shop.project.store)


def _repair_rejects(shop: Shop) -> None:
    _damage(shop.project.store, rejects_table(shop.project.store, "products"))
    repair(shop.project.store)


def _recompute_vectors(shop: Shop) -> None:
    store = shop.project.store
    recompute_with_rounding_difference(store, vectors_of(store, "products"))
    repair(store)  # records the file that earlier versions list


@pytest.mark.parametrize(
    ("change", "still_up_to_date"),
    [
        (_change_row, ["suppliers"]),
        (_change_graph, ["suppliers"]),
        (_lose_index, ["suppliers"]),
        (_lose_history, ["suppliers"]),
        (_repair_vectors, ["suppliers"]),
        (_repair_embeddings, ["suppliers"]),
        (_repair_rejects, ["suppliers"]),
        (_recompute_vectors, ["suppliers"]),
    ],
)
def test_what_is_out_of_date_runs(
    materialized_shop: Shop, change: Callable[[Shop], None], still_up_to_date: list[str]
) -> None:
    shop = materialized_shop
    change(shop)

    report = _run(shop)

    assert report.succeeded
    assert set(still_up_to_date) <= set(report.up_to_date)
    assert "products" not in report.up_to_date
    assert _run(shop).up_to_date == ALL
    assert verify(Store.open(shop.project.store.url)).problems == []


def test_status_names_the_stages_that_lost_vectors(materialized_shop: Shop) -> None:
    store = materialized_shop.project.store
    intact = {"embeddings": "fresh", "index": "fresh"}
    # As the retention does after it deleted vectors that no version needs.
    vectors_of(store, "products").begin_generation()
    before = versions(store)
    assert _stages(store) == intact
    assert _run(materialized_shop).up_to_date == ALL
    assert versions(store) == before

    _damage(store, vectors_of(store, "products").table)
    [problem] = verify(store).problems
    assert "'imgsim verify --repair' drops it, and then 'imgsim run'" in problem.message
    repair(store)

    assert _stages(store) == {"embeddings": "stale", "index": "stale"}


def _stages(store: Store) -> dict[str, Freshness]:
    return {
        "embeddings": embeddings_freshness(store, "products"),
        "index": index_freshness(store, "products"),
    }


def test_download_that_another_setting_makes_due_runs(shop: Shop) -> None:
    shop.declare(download={"allowed_hosts": []})
    assert _run(shop).succeeded
    assert _run(shop).up_to_date == ALL
    assert shop.web.total_gets == 3
    shop.declare(download={"allowed_hosts": [shop.web.address]})

    assert "products" not in _run(shop).up_to_date
    assert shop.web.total_gets == 3 + 5


def test_output_tells_failed_downloads_rejected_rows_and_failed_checks(shop: Shop) -> None:
    shop.rows[""] = {"id": "", "url": shop.web.url("/p0.jpg"), "title": ""}
    shop.put_item("new", 100)
    shop.declare(download={"allowed_hosts": []})
    lines: list[str] = []

    with shop.project.instance() as instance:
        report = LocalRun(shop.project.definitions(), instance, lines.append).run(["products"])

    assert report.succeeded
    text = "\n".join(line.strip() for line in lines)
    assert "products/items: 6 rows, changed; 1 empty_id" in text
    assert "products/items: check no_rejects failed (warn): 1 rejected row; 'imgsim failu" in text
    blocked = re.findall(r"products/images\[\d+\]: \d rows?, changed; (\d) blocked_address", text)
    assert sum(map(int, blocked)) == 6
    assert text.count("\nblocked_address: for your own hosts, set download: {allowed_hosts: [") == 1
    assert "products/images: check success_rate failed (warn): 0 of 6 images fetched" in text
    assert "check ids_unique" not in text


def test_check_that_stops_a_catalog_is_its_message(shop: Shop) -> None:
    shop.declare(download={"allowed_hosts": []}, checks={"severity": "error"})

    report = _run(shop, "products")

    failed = r"products/\w+: check success_rate failed \(error\): 0 of 5 images fetched, [^\n]*"
    assert re.fullmatch(failed, report.failed["products"])


def test_named_table_runs_with_the_catalogs_it_needs(shop: Shop) -> None:
    assert _run(shop, "suppliers").succeeded
    assert not any(name.startswith("products/") for name in versions(shop.project.store))

    report = _run(shop, "pair")

    assert report.succeeded
    assert report.up_to_date == ["suppliers"]
    assert "matches/pair" in versions(shop.project.store)


def test_failed_catalog_skips_its_tables_and_no_other_catalog(shop: Shop) -> None:
    (shop.project.root / "products.csv").unlink()

    report = _run(shop)

    assert list(report.failed) == ["products"]
    assert "products.csv" in report.failed["products"]
    assert report.skipped == ["matches/pair"]
    assert "suppliers/index" in versions(shop.project.store)
    assert len(report.problems()) == 2


def _enter(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.project.root)
    monkeypatch.syspath_prepend(shop.project.root)
    shop.project.definitions()  # forgets the modules of other projects


def test_command_records_its_runs_in_the_project_without_a_dagster_home(
    shop: Shop, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    _enter(shop, monkeypatch)
    # The command sets it for this process; monkeypatch restores it.
    monkeypatch.setenv("DAGSTER_HOME", "")

    first = shell("run")

    home = shop.project.root / "data/dagster_home"
    assert first.code == 0, first.err
    assert f"DAGSTER_HOME is not set; the runs are recorded in {home}" in first.out
    assert "products/images[001]: " in first.out
    assert (home / "history").is_dir()
    assert "products: up to date" in shell("run").out


def test_broken_yaml_is_one_message_with_its_line(
    shop: Shop, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    _enter(shop, monkeypatch)
    monkeypatch.setenv("DAGSTER_HOME", str(shop.project.home))
    path = shop.project.root / "shop/defs/pair/defs.yaml"
    path.write_text("type: imgsim_assets.MatchMatrixComponent\nattributes:\n  name: a\n left: b\n")

    result = shell("run")

    assert result.code == 1
    assert result.err.startswith(f"imgsim: {path}:4: this is not valid YAML: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            b"  name: a\x01",
            "this is not valid YAML: the character U+0001 is not allowed, in column 10; remove it",
        ),
        (b"  name: \xe9", "this is not text in UTF-8; save the file in UTF-8"),
    ],
)
def test_yaml_that_is_no_text_is_one_message_with_its_file(
    shop: Shop, shell: Shell, monkeypatch: pytest.MonkeyPatch, line: bytes, problem: str
) -> None:
    _enter(shop, monkeypatch)
    monkeypatch.setenv("DAGSTER_HOME", str(shop.project.home))
    path = shop.project.root / "shop/defs/pair/defs.yaml"
    path.write_bytes(b"type: imgsim_assets.MatchMatrixComponent\nattributes:\n" + line + b"\n")

    result = shell("run")

    assert result.code == 1
    assert result.err == f"imgsim: {path}:3: {problem}\n"


def test_failure_is_one_message_and_exit_code_1(
    shop: Shop, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    _enter(shop, monkeypatch)
    monkeypatch.setenv("DAGSTER_HOME", str(shop.project.home))
    (shop.project.root / "products.csv").unlink()

    result = shell("run", "products", "--quiet")

    assert result.code == 1
    (line,) = [line for line in result.err.splitlines() if line.startswith("imgsim: ")]
    assert line.startswith("imgsim: products failed: products/source: ")
    assert "products.csv" in line
    assert "SourceError" not in line


def test_unknown_name_is_answered_with_the_declared_ones(
    shop: Shop, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    _enter(shop, monkeypatch)
    monkeypatch.setenv("DAGSTER_HOME", str(shop.project.home))

    result = shell("run", "product")

    assert result.code == 1
    assert "'product'; did you mean 'products'? declared are products, suppliers" in result.err


def test_folder_without_a_project_is_named(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    result = shell("run")

    assert result.code == 1
    assert f"there is no Dagster project at '{tmp_path}'" in result.err
