"""Which work a changed setting causes, and that old results stay readable until replaced."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.encoders import COUNTER
from imgsim_assets_tests.support.materialized_shops import MaterializedShops
from imgsim_assets_tests.support.shop import ENCODER, Shop, results, versions

PAIR = "matches/pair"


@dataclass(frozen=True)
class Before:
    """What there was when a shop had been materialized, and what has been done since."""

    shop: Shop
    fetched: int
    encoded: int
    committed: dict[str, int]

    @classmethod
    def of(cls, shop: Shop) -> Before:
        return cls(shop, shop.web.total_gets, shop.encodings, versions(shop.project.store))

    @property
    def fetched_since(self) -> int:
        return self.shop.web.total_gets - self.fetched

    @property
    def encoded_since(self) -> int:
        return self.shop.encodings - self.encoded

    @property
    def committed_since(self) -> set[str]:
        """Tables with another version, or that are new."""
        now = versions(self.shop.project.store)
        return {name for name, version in now.items() if self.committed.get(name) != version}


@pytest.fixture
def shop(materialized_shops: MaterializedShops, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop that has been materialized."""
    opened = materialized_shops.restore(Shop.open)
    monkeypatch.setenv(COUNTER, str(opened.counter))
    return opened


def _rows(store: Store, name: str) -> pl.DataFrame:
    return read_table(name, store=store).collect()


def test_another_encoder_embeds_again_and_keeps_the_old_matches_until_done(
    shop: Shop,
) -> None:
    store, before = shop.project.store, Before.of(shop)
    matches = _rows(store, PAIR)
    shop.declare(
        encoder={**ENCODER, "version": "2"}, suppliers={"encoder": {**ENCODER, "version": "2"}}
    )
    (shop.project.root / "shop/defs/pair").rename(shop.project.root / "pair")

    assert shop.project.materialize()

    assert before.fetched_since == 0
    assert before.encoded_since == before.encoded
    assert _rows(store, PAIR).equals(matches)
    assert {name for name in before.committed if "/vectors/" in name} < set(store.table_names())
    (shop.project.root / "pair").rename(shop.project.root / "shop/defs/pair")
    assert shop.project.materialize()
    assert PAIR in before.committed_since
    shop.assert_equals_a_rebuild()


def test_return_to_the_old_encoder_needs_no_forward_pass(shop: Shop) -> None:
    old = results(shop.project.store)
    newer = {**ENCODER, "version": "2"}
    shop.declare(encoder=newer, suppliers={"encoder": newer})
    assert shop.project.materialize()
    before = Before.of(shop)
    shop.declare()

    assert shop.project.materialize()

    assert (before.fetched_since, before.encoded_since) == (0, 0)
    assert all(results(shop.project.store)[name].equals(rows) for name, rows in old.items())


def test_another_threshold_rematerializes_only_the_match_table(shop: Shop) -> None:
    before = Before.of(shop)
    rows = _rows(shop.project.store, PAIR)
    shop.declare(pair={"threshold": 0.2})

    assert shop.project.materialize()

    assert (before.fetched_since, before.encoded_since) == (0, 0)
    assert before.committed_since == {PAIR}
    assert _rows(shop.project.store, PAIR).height > rows.height
    older = read_table(PAIR, version=before.committed[PAIR], store=shop.project.store)
    assert older.collect().equals(rows)
    shop.assert_equals_a_rebuild()


def test_more_shards_refetch_and_reembed_nothing(shop: Shop) -> None:
    before = Before.of(shop)
    shop.declare(shards=5)
    shop.remove_item("p4")

    assert shop.project.materialize()

    assert (before.fetched_since, before.encoded_since) == (0, 0)
    shop.assert_equals_a_rebuild()


def test_renamed_id_column_is_recognized_and_changes_nothing_downstream(shop: Shop) -> None:
    before = Before.of(shop)
    _rename_column(shop.project.root / "products.csv", "id", "sku")

    assert shop.project.materialize()

    assert (before.fetched_since, before.encoded_since) == (0, 0)
    assert before.committed_since == {"products/items"}


def test_declared_id_column_that_is_gone_is_an_error_and_once_corrected_changes_nothing(
    shop: Shop,
) -> None:
    shop.declare(source={"path": "products.csv", "id": "id"})
    assert shop.project.materialize()
    before = Before.of(shop)
    _rename_column(shop.project.root / "products.csv", "id", "sku")

    assert not shop.project.materialize()

    assert before.fetched_since == 0
    assert before.committed_since == set()
    shop.declare(source={"path": "products.csv", "id": "sku"})
    assert shop.project.materialize()
    assert (before.fetched_since, before.encoded_since) == (0, 0)
    assert before.committed_since == {"products/items"}


def test_another_id_column_fetches_new_ids_and_embeds_the_same_bytes_once(shop: Shop) -> None:
    before = Before.of(shop)
    shop.declare(
        source={"path": "products.csv", "id": "title"}, checks={"max_removed_fraction": 1.0}
    )

    assert shop.project.materialize()

    assert before.fetched_since == 12
    assert before.encoded_since == 0
    matched = _rows(shop.project.store, PAIR)["left_id"].to_list()
    assert matched
    assert all(item.startswith("item p") for item in matched)


def _rename_column(path: Path, old: str, new: str) -> None:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[new if name == old else name for name in header], *rows])


def test_removed_catalog_leaves_all_tables_in_the_store(
    shop: Shop,
) -> None:
    store, before = shop.project.store, Before.of(shop)
    found = results(store)
    for name in ("suppliers", "pair"):
        shutil.rmtree(shop.project.root / "shop/defs" / name)

    assert shop.project.materialize()

    assert (before.fetched_since, before.encoded_since) == (0, 0)
    assert before.committed_since == set()
    now = results(store)
    assert all(now[name].equals(rows) for name, rows in found.items())
