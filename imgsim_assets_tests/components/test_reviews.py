"""People's decisions as an asset: a declared file is imported, honoured and looked at again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.components.local_run import LocalRun
from imgsim_assets.pipeline.reviewed import Reviewed
from imgsim_assets.pipeline.reviews import import_reviews
from imgsim_assets.storage.reader import read_table
from imgsim_assets_tests.support.materialized_shops import MaterializedShops
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web

_REVIEWS = dg.AssetKey(["reviews", "pair"])


def _decided(root: Path, web: Web) -> Shop:
    opened = Shop.open(root, web, products=4, suppliers=3)
    _decide(opened, "p1,s1,different")
    opened.declare(pair={"reviews": "verdicts.csv"})
    return opened


@pytest.fixture
def shop(tmp_path: Path, web: Web) -> Shop:
    return _decided(tmp_path, web)


@pytest.fixture
def materialized_shop(materialized_shops: MaterializedShops) -> Shop:
    return materialized_shops.restore(_decided)


def _decide(shop: Shop, *rows: str) -> None:
    text = "\n".join(["left_id,right_id,verdict", *rows])
    (shop.project.root / "verdicts.csv").write_text(text)


def _pairs(shop: Shop) -> set[tuple[str, str]]:
    rows = read_table("matches/pair", store=shop.project.store)
    return set(rows.collect().select("left_id", "right_id").iter_rows())


def _look(
    shop: Shop,
    instance: dg.DagsterInstance,
    cursor: str | None = None,
    sensor: str = "reviews__pair_sensor",
) -> Any:
    definitions = shop.project.definitions()
    repository = definitions.get_repository_def()
    definition = repository.get_sensor_def(sensor)
    context = dg.build_sensor_context(
        instance, cursor=cursor, repository_def=repository, resources=definitions.resources
    )
    return definition.evaluate_tick(context)


def test_a_materialization_honours_the_declared_file(materialized_shop: Shop) -> None:
    assert ("p1", "s1") not in _pairs(materialized_shop)
    assert ("p2", "s2") in _pairs(materialized_shop)


def test_the_sensor_reports_new_decisions_once_and_the_next_run_honours_them(
    materialized_shop: Shop,
) -> None:
    shop = materialized_shop
    with shop.project.instance() as instance:
        first = _look(shop, instance)
        unchanged = _look(shop, instance, first.cursor)
        _decide(shop, "p1,s1,different", "p2,s2,different")
        changed = _look(shop, instance, first.cursor)

    assert len(first.asset_events) == len(changed.asset_events) == 1
    assert changed.asset_events[0].asset_key == _REVIEWS
    assert changed.asset_events[0].data_version != first.asset_events[0].data_version
    assert not unchanged.asset_events
    assert unchanged.skip_message == "no decision is new"
    assert shop.project.materialize()
    assert not {("p1", "s1"), ("p2", "s2")} & _pairs(shop)


def test_a_decision_starts_the_match_table_and_no_other_asset(materialized_shop: Shop) -> None:
    shop = materialized_shop
    definitions = shop.project.definitions()
    with shop.project.instance() as instance:

        def observe() -> None:
            (observation,) = _look(shop, instance).asset_events
            instance.report_runless_asset_event(observation)

        def requested(cursor: Any = None) -> Any:
            return dg.evaluate_automation_conditions(
                defs=definitions, instance=instance, cursor=cursor
            )

        observe()
        before = requested()
        _decide(shop, "p1,s1,cleared")
        observe()
        after = requested(before.cursor)

    asked = {each.key for each in after.results if after.get_num_requested(each.key)}
    assert asked == {dg.AssetKey(["matches", "pair"])}


def test_a_missing_file_fails_the_match_table_with_its_name(shop: Shop) -> None:
    (shop.project.root / "verdicts.csv").unlink()

    assert not shop.project.materialize()


def test_a_missing_file_is_told_when_the_project_loads(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    path = shop.project.root / "verdicts.csv"
    path.unlink()

    for _ in range(2):  # as `dg check defs` loads it
        shop.project.definitions()

    warning = f"reviews of pair: there is no file '{path}'; runs that need it fail"
    assert caplog.text.count(warning) == 1


def test_imported_decisions_make_a_match_table_without_the_key_run_again(
    materialized_shops: MaterializedShops,
) -> None:
    shop = materialized_shops.restore(Shop.open)
    _decide(shop, "p1,s1,different")
    with shop.project.instance() as instance:
        definitions = shop.project.definitions()
        assert "matches/pair" in LocalRun(definitions, instance).run().up_to_date
        file = shop.project.root / "verdicts.csv"
        import_reviews(
            shop.project.store,
            Reviewed("pair", ("products", "suppliers")),
            file,
            now=datetime(2026, 1, 1, tzinfo=UTC),
        )

        assert "matches/pair" not in LocalRun(definitions, instance).run().up_to_date
        assert ("p1", "s1") not in _pairs(shop)
        assert "matches/pair" in LocalRun(definitions, instance).run().up_to_date


def _declare_groups(shop: Shop) -> None:
    """Groups of the products, and of both catalogs, each with a file of decisions."""
    shop.put_item("copy", 1, path="/p1.jpg")
    shop.declare(groups={"threshold": 0.95, "reviews": "of_products.csv"})
    settings = {"name": "all", "catalogs": ["products", "suppliers"], "threshold": 0.95}
    shop.project.declare("all", "DuplicateGroupsComponent", settings | {"reviews": "of_both.csv"})
    _write(shop, "of_products.csv", "p1,copy,different")
    _write(shop, "of_both.csv", "products/p2,suppliers/s2,different")


def _write(shop: Shop, name: str, *rows: str) -> None:
    text = "\n".join(["left_id,right_id,verdict", *rows])
    (shop.project.root / name).write_text(text)


def _groups(shop: Shop, table: str) -> list[set[str]]:
    rows = read_table(table, store=shop.project.store).collect()
    return [set(ids) for ids in rows.group_by("group_id").agg("id")["id"]]


def test_groups_honour_their_declared_files(shop: Shop) -> None:
    _declare_groups(shop)

    assert shop.project.materialize()

    assert {"p1", "copy"} not in _groups(shop, "products/duplicate_groups")
    assert {"p2", "s2"} not in _groups(shop, "duplicate_groups/all")
    assert any({"p1", "copy"} <= group for group in _groups(shop, "duplicate_groups/all"))
    specs = {spec.key: spec for spec in shop.project.definitions().resolve_all_asset_specs()}
    for name in ("products", "all"):
        reviews = dg.AssetKey(["reviews", "groups", name])
        path = (
            ["products", "duplicate_groups"] if name == "products" else ["duplicate_groups", name]
        )
        assert reviews in {dep.asset_key for dep in specs[dg.AssetKey(path)].deps}
        assert f"reviews__groups__{name}_sensor" in {
            sensor.name for sensor in shop.project.definitions().sensors or ()
        }


@pytest.mark.slow
def test_changed_decisions_about_groups_run_the_groups_alone(shop: Shop) -> None:
    _declare_groups(shop)
    assert shop.project.materialize()
    with shop.project.instance() as instance:
        definitions = shop.project.definitions()
        LocalRun(definitions, instance).run()
        assert "duplicate_groups/all" in LocalRun(definitions, instance).run().up_to_date

        _write(shop, "of_both.csv", "products/p2,suppliers/s2,match")
        report = LocalRun(definitions, instance).run()

        assert {"products", "suppliers", "matches/pair"} <= set(report.up_to_date)
        assert "duplicate_groups/all" not in report.up_to_date
        assert any({"p2", "s2"} <= group for group in _groups(shop, "duplicate_groups/all"))
        assert "duplicate_groups/all" in LocalRun(definitions, instance).run().up_to_date


@pytest.mark.slow
def test_a_decision_about_groups_starts_the_groups_and_no_other_asset(shop: Shop) -> None:
    _declare_groups(shop)
    assert shop.project.materialize()
    definitions = shop.project.definitions()
    with shop.project.instance() as instance:

        def observe() -> None:
            sensor = "reviews__groups__products_sensor"
            (observation,) = _look(shop, instance, sensor=sensor).asset_events
            instance.report_runless_asset_event(observation)

        def requested(cursor: Any = None) -> Any:
            return dg.evaluate_automation_conditions(
                defs=definitions, instance=instance, cursor=cursor
            )

        observe()
        before = requested()
        _write(shop, "of_products.csv", "p1,copy,cleared")
        observe()
        after = requested(before.cursor)

    asked = {each.key for each in after.results if after.get_num_requested(each.key)}
    assert asked == {dg.AssetKey(["products", "duplicate_groups"])}


def test_groups_may_not_have_the_name_of_a_catalog(shop: Shop) -> None:
    settings = {"name": "products", "catalogs": ["products", "suppliers"]}
    shop.project.declare("both", "DuplicateGroupsComponent", settings)

    with pytest.raises(Exception, match="Error while building definitions") as refused:
        shop.project.definitions()
    assert "'products' is a catalog, whose own groups" in str(refused.value.__cause__)
