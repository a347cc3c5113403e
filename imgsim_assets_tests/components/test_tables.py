"""Match tables as parameters of other assets, in the same and in another code location."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

import imgsim_assets
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.commit import Commit, PendingCommit, replace_shard
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.tables import latest_commit
from imgsim_assets_tests.support.web import Web


def _commit(table: Table, rows: pl.DataFrame) -> None:
    table.commit(lambda _: PendingCommit([table.write_rows(rows)]))


def _matches(*ids: str) -> pl.DataFrame:
    return pl.DataFrame({"left_id": ids, "right_id": ids, "similarity": [1.0] * len(ids)})


def test_an_asset_of_another_location_takes_the_newest_matches(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    _commit(store.table("matches/pair"), _matches("a"))
    _commit(store.table("matches/pair"), _matches("a", "b"))
    seen: list[pl.LazyFrame] = []

    @dg.asset(ins={"matches": imgsim_assets.match_input("pair")})
    def load(matches: pl.LazyFrame) -> None:
        seen.append(matches)

    definitions = dg.Definitions(
        assets=[imgsim_assets.match_spec("pair"), load],
        resources={"imgsim_tables": imgsim_assets.TableIOManager(store=store.url)},
    )
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process()

    assert result.success
    assert isinstance(seen[0], pl.LazyFrame)
    assert seen[0].collect()["left_id"].to_list() == ["a", "b"]
    loaded = [event for event in result.all_events if event.is_loaded_input]
    assert loaded[0].event_specific_data.metadata["imgsim/version"].value == 2  # type: ignore[union-attr]


def test_a_damaged_table_stops_an_asset_that_takes_a_data_frame(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    _commit(store.table("matches/pair"), _matches("a", "b"))
    flip_bit(
        store, store.table("matches/pair"), latest_commit(store.table("matches/pair")).files[0]
    )

    @dg.asset(ins={"matches": imgsim_assets.match_input("pair")})
    def load(matches: pl.DataFrame) -> None:
        pytest.fail(str(matches))

    with pytest.raises(CorruptFileError, match="does not match its committed checksum"):
        dg.materialize(
            [imgsim_assets.match_spec("pair"), load],
            resources={"imgsim_tables": imgsim_assets.TableIOManager(store=store.url)},
            selection=[load],
        )


def test_an_annotation_of_data_frame_gets_the_rows(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    _commit(store.table("matches/pair"), _matches("a"))
    seen: list[pl.DataFrame] = []

    @dg.asset(ins={"matches": imgsim_assets.match_input("pair")})
    def load(matches: pl.DataFrame) -> None:
        seen.append(matches)

    dg.materialize(
        [imgsim_assets.match_spec("pair"), load],
        resources={"imgsim_tables": imgsim_assets.TableIOManager(store=store.url)},
        selection=[load],
    )

    assert seen[0]["left_id"].to_list() == ["a"]


def test_a_partitioned_consumer_gets_its_shards_only(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    table = store.table("products/embeddings", key="id")
    ids = pl.DataFrame({"id": [f"p{number}" for number in range(50)]})

    def every_shard(base: Commit | None) -> PendingCommit:
        files = [
            replace_shard(None, shard, [table.write_rows(shard.filter(ids))])[0]
            for shard in (Shard(0, 3), Shard(1, 3), Shard(2, 3))
        ]
        return PendingCommit(files)

    table.commit(every_shard)
    shards = dg.StaticPartitionsDefinition(["000", "001", "002"])
    upstream = dg.AssetSpec(["products", "embeddings"], partitions_def=shards)
    seen: list[pl.LazyFrame] = []

    @dg.asset(partitions_def=shards, ins={"rows": imgsim_assets.table_input("products/embeddings")})
    def consumer(rows: pl.LazyFrame) -> None:
        seen.append(rows)

    dg.materialize(
        [upstream, consumer],
        resources={"imgsim_tables": imgsim_assets.TableIOManager(store=store.url)},
        selection=[consumer],
        partition_key="001",
    )

    assert seen[0].collect()["id"].sort().equals(Shard(1, 3).filter(ids)["id"].sort())


def test_a_table_that_was_never_materialized_is_named(tmp_path: Path) -> None:
    @dg.asset(ins={"matches": imgsim_assets.match_input("pair")})
    def load(matches: pl.LazyFrame) -> None: ...

    with pytest.raises(StoreError, match="has no table 'matches/pair'"):
        dg.materialize(
            [imgsim_assets.match_spec("pair"), load],
            resources={
                "imgsim_tables": imgsim_assets.TableIOManager(store=str(tmp_path / "store"))
            },
            selection=[load],
        )


def test_the_io_manager_refuses_to_write(tmp_path: Path) -> None:
    @dg.asset(io_manager_key="imgsim_tables")
    def producer() -> pl.DataFrame:
        return pl.DataFrame({"a": [1]})

    result = dg.materialize(
        [producer],
        resources={"imgsim_tables": imgsim_assets.TableIOManager(store=str(tmp_path / "store"))},
        raise_on_error=False,
    )

    failure = result.get_step_failure_events()[0].step_failure_data
    assert failure.error is not None
    assert "commit it and return a MaterializeResult" in str(failure.error.to_string())


def test_an_asset_of_the_same_location_takes_the_matches(tmp_path: Path, web: Web) -> None:
    shop = Shop.open(tmp_path, web, products=4, suppliers=4)
    shop.project.write(
        "shop/defs/report.py",
        """
        from pathlib import Path

        import dagster as dg
        import polars as pl

        import imgsim_assets

        @dg.asset(ins={"matches": imgsim_assets.match_input("pair")})
        def report(matches: pl.LazyFrame) -> None:
            Path(__file__).with_name("report.csv").write_text(matches.collect().write_csv())
        """,
    )

    assert shop.project.materialize()

    written = pl.read_csv(shop.project.root / "shop/defs/report.csv")
    assert {"left_id", "right_id", "similarity", "rank"} < set(written.columns)
    assert written.height >= 3


def test_a_second_catalog_and_pair_share_the_io_manager(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    project.write("a.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    for name in ("one", "two"):
        attributes = {"name": name, "source": {"path": "a.csv"}, "encoder": "hog_color"}
        project.declare(name, "ImageCatalogComponent", attributes)
    project.declare("pair", "MatchMatrixComponent", {"name": "pair", "left": "one", "right": "two"})

    assert "imgsim_tables" in (project.definitions().resources or {})
