"""Asset checks that tell what went wrong, and what they stop."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from imgsim_assets.pipeline import checks
from imgsim_assets.pipeline.check_result import CheckResult
from imgsim_assets.storage.reader import read_table
from imgsim_assets_tests.support.damage import break_a_vector
from imgsim_assets_tests.support.materialized_shops import MaterializedShops
from imgsim_assets_tests.support.shop import Shop, versions
from imgsim_assets_tests.support.web import Web

_OPERATE = Path(__file__).parents[2] / "docs" / "operate.md"
DRIFT = "matches/pair:similarity_drift"
CURRENT = "matches/pair:index_is_current"
RECALL = "products/index:recall_at_10"
SUCCESS = "products/images:success_rate"


@pytest.fixture
def shop(tmp_path: Path, web: Web) -> Shop:
    return Shop.open(tmp_path, web)


@pytest.fixture
def materialized_shop(materialized_shops: MaterializedShops) -> Shop:
    return materialized_shops.restore(Shop.open)


def _evaluations(instance: dg.DagsterInstance) -> dict[str, tuple[bool, str]]:
    """Whether each check passed when it was evaluated last, and its severity."""
    found: dict[str, tuple[bool, str]] = {}
    for run in instance.get_run_records(limit=20):
        for entry in instance.all_logs(
            run.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ):
            assert entry.dagster_event is not None
            evaluation = entry.dagster_event.asset_check_evaluation_data
            name = f"{evaluation.asset_key.to_user_string()}:{evaluation.check_name}"
            found.setdefault(name, (evaluation.passed, evaluation.severity.value))
    return found


@pytest.mark.parametrize(
    ("of_catalog", "of_pair"),
    [("warn", "error"), pytest.param("error", "warn", marks=pytest.mark.slow)],
)
def test_measuring_checks_have_the_declared_severity(
    tmp_path: Path, web: Web, of_catalog: str, of_pair: str
) -> None:
    shop = Shop.open(tmp_path, web, products=90)
    checks = {"sample_size": 50, "min_success_rate": 0.1}
    # So few vectors make two lists, of which a search looks at one.
    index = {"kind": "ivf", "min_items": 1, "nprobe": 1, "min_recall": 1.0}
    shop.declare(
        checks=checks | {"severity": of_catalog},
        index=index,
        pair={"checks": checks | {"severity": of_pair}},
    )
    assert shop.project.materialize()
    for number in range(1, 8):
        shop.put_item(f"p{number}", 900 + number)
    stages = ("items", "images", "embeddings")
    with shop.project.instance() as instance:
        _run(shop, instance, *(["products", stage] for stage in stages))
        _run(shop, instance, ["matches", "pair"])
        audit = shop.project.definitions().resolve_job_def("products_audit")
        assert audit.execute_in_process(instance=instance).success
        evaluations = _evaluations(instance)

    assert evaluations[DRIFT] == (False, of_pair.upper())
    assert evaluations[RECALL] == (False, of_catalog.upper())
    assert evaluations[CURRENT] == (True, of_pair.upper())
    assert evaluations[SUCCESS] == (True, of_catalog.upper())


def test_stale_index_fails_index_is_current(materialized_shop: Shop) -> None:
    shop = materialized_shop
    suppliers = shop.project.root / "suppliers.csv"
    suppliers.write_text("".join(suppliers.read_text().splitlines(keepends=True)[:-1]))
    stages = ("items", "images", "embeddings")
    with shop.project.instance() as instance:
        _run(shop, instance, *(["suppliers", stage] for stage in stages))
        _run(shop, instance, ["matches", "pair"])

        assert _evaluations(instance)[CURRENT] == (False, "WARN")


def _run(shop: Shop, instance: dg.DagsterInstance, *keys: list[str]) -> None:
    """Materialize these assets only, all shards of them."""
    job = shop.project.definitions().resolve_implicit_global_asset_job_def()
    shards = 3 if keys[0][0] == "products" else 2
    tags = {
        "dagster/asset_partition_range_start": "000",
        "dagster/asset_partition_range_end": f"{shards - 1:03d}",
    }
    for key in keys:
        partitioned = key[-1] in ("images", "embeddings")
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(key)],
            tags=tags if partitioned else {},
        )
        assert result.success


def test_shrinking_catalog_fails_until_removals_are_allowed(materialized_shop: Shop) -> None:
    shop = materialized_shop
    for item in list(shop.rows)[:7]:
        shop.remove_item(item)

    assert not shop.project.materialize()

    rows = read_table("products/items", store=shop.project.store)
    assert rows.collect().height == 12
    page = _OPERATE.read_text()
    accept = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    assert json.loads(_removal_command()[-1]) == accept
    job = shop.project.definitions().resolve_implicit_global_asset_job_def()
    with shop.project.instance() as instance:
        job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["products", "items"])],
            run_config=accept,
        )
    assert read_table("products/items", store=shop.project.store).collect().height == 5


@pytest.mark.slow
def test_command_of_operate_page_allows_removals(materialized_shop: Shop) -> None:
    shop = materialized_shop
    for item in list(shop.rows)[:7]:
        shop.remove_item(item)
    program, *arguments = _removal_command()

    subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        cwd=shop.project.root,
        env=shop.project.environment(),
        check=True,
    )

    assert read_table("products/items", store=shop.project.store).collect().height == 5


def _removal_command() -> list[str]:
    (line,) = [
        line for line in _OPERATE.read_text().splitlines() if line.startswith("dg launch --assets")
    ]
    return shlex.split(line)


def test_emptied_catalog_empties_its_downstream_assets(materialized_shop: Shop) -> None:
    shop = materialized_shop
    empty = {
        "source": {"path": "products.csv", "allow_empty": True},
        "checks": {"min_success_rate": 0.9, "severity": "error"},
    }
    shop.declare(**empty)
    assert read_table("matches/pair", store=shop.project.store).collect().height
    (shop.project.root / "products.csv").write_text("id,url,title\n")

    assert shop.project.materialize()

    for name in ("products/images", "products/index", "matches/pair"):
        assert read_table(name, store=shop.project.store).collect().height == 0


def test_too_few_images_stop_downstream_assets_with_severity_error(shop: Shop) -> None:
    shop.declare(checks={"min_success_rate": 0.9, "severity": "error"})
    for number in range(2):
        del shop.web.pages[f"/p{number}.jpg"]

    assert not shop.project.materialize()

    tables = versions(shop.project.store)
    assert "products/images" in tables
    assert "products/embeddings" not in tables
    assert "suppliers/index" in tables


@pytest.mark.parametrize(
    ("check", "stopped"),
    [
        ("ids_unique", "products/images"),
        ("ids_match_embeddings", "products/similarity_graph"),
        ("self_recall", "products/similarity_graph"),
    ],
)
def test_broken_invariant_stops_downstream_assets_unless_it_only_warns(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, check: str, stopped: str
) -> None:
    monkeypatch.setattr(checks, check, lambda *_: CheckResult({}, "broken"))

    assert not shop.project.materialize()

    assert not {stopped, "matches/pair"} & set(versions(shop.project.store))
    only_warn = {"invariant_severity": "warn"}
    shop.declare(checks=only_warn, suppliers={"checks": only_warn})
    assert shop.project.materialize()
    assert {stopped, "matches/pair"} <= set(versions(shop.project.store))


def test_vector_that_is_not_normalized_stops_downstream_assets_once(
    materialized_shop: Shop,
) -> None:
    shop = materialized_shop
    break_a_vector(shop.project.store, "products")
    shop.put_item("new", 100)
    before = versions(shop.project.store)

    assert not shop.project.materialize()

    after = versions(shop.project.store)
    assert after["products/embeddings"] > before["products/embeddings"]
    for name in ("products/index", "products/similarity_graph"):
        assert after[name] == before[name]
    # The bad vectors were dropped, so that the next run computes them again.
    assert shop.project.materialize()
    shop.assert_equals_a_rebuild()
