"""Embeddings and indexes of items with several images: a row for each (id, image)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.index.stage import IndexStage, open_index
from imgsim_assets.pipeline.invariants import require_invariants, update_index
from imgsim_assets.pipeline.status import catalog_status
from imgsim_assets.pipeline.verify import verify
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, embed_shards, fill, sha256_of, tiny
from imgsim_assets_tests.support.tables import latest_commit

BROKEN = b"no image"
IMAGES = [None, BROKEN, *(tiny(seed) for seed in range(5))]
A, B, C, D = (tiny(seed) for seed in range(4))


def test_report_counts_items_images_and_distinct_images(store: Store) -> None:
    shards = fill(store, "shop", {"a": [A, B, A], "b": [BROKEN, B], "c": BROKEN, "d": [None, None]})

    (report,) = embed_shards(store, "shop", THUMBNAIL, shards)

    assert (report.items, report.usable_items) == (3, 2)
    assert (report.images, report.distinct_images, report.embedded) == (6, 3, 2)
    assert report.statuses == {"not_image": 2, "ok": 4}


def test_every_image_has_a_row_in_the_order_of_its_item(store: Store) -> None:
    embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", {"b": [A, None, BROKEN], "a": B}))

    assert _rows(store).select("id", "image", "sha256", "status").rows() == [
        ("a", 0, sha256_of(B), "ok"),
        ("b", 0, sha256_of(A), "ok"),
        ("b", 2, sha256_of(BROKEN), "not_image"),
    ]


def test_reordering_images_embeds_nothing_and_is_seen_downstream(store: Store) -> None:
    shards = fill(store, "shop", {"a": [A, B, C], "b": D})
    (before,) = embed_shards(store, "shop", THUMBNAIL, shards)
    index_before = IndexStage(store, "shop").run()
    fill(store, "shop", {"a": [C, A, B], "b": D})

    (report,) = embed_shards(store, "shop", THUMBNAIL, shards)
    index = IndexStage(store, "shop").run()

    assert (report.embedded, report.reused, report.changed) == (0, 0, True)
    assert report.data_version != before.data_version
    assert (index.added, index.removed, index.moved) == (0, 0, 3)
    assert index.data_version != index_before.data_version


def test_one_more_image_is_one_more_forward_pass(store: Store) -> None:
    shards = fill(store, "shop", {"a": [A, B], "b": C})
    embed_shards(store, "shop", THUMBNAIL, shards)
    IndexStage(store, "shop").run()
    fill(store, "shop", {"a": [A, D, B], "b": C})

    (report,) = embed_shards(store, "shop", THUMBNAIL, shards)
    index = IndexStage(store, "shop").run()

    assert (report.embedded, index.added, index.removed, index.moved) == (1, 1, 0, 1)


def test_one_image_per_item_keeps_its_data_version(store: Store) -> None:
    """A store of one image per item is not stale since items may have several."""
    (one,) = embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", {"a": A, "b": B}))

    commit = latest_commit(embeddings_table(store, "shop"))
    table = embeddings_table(store, "shop")
    rows = table.read(commit).drop("image")
    earlier = commit.files[0].with_content(table.write_rows(rows))
    table.commit(lambda _: PendingCommit([earlier], commit.inputs, commit.properties))
    (again,) = embed_shards(store, "shop", THUMBNAIL, [Shard(0, 1)])

    assert (again.changed, again.embedded) == (False, 0)
    assert again.data_version == one.data_version
    assert _rows(store)["image"].to_list() == [0, 0]
    require_invariants(store, "shop")


@settings(max_examples=25, deadline=None)
@given(
    history=st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b", "c"]),
            st.lists(st.sampled_from(IMAGES), min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_rows_and_index_after_any_history_equal_a_rebuild(
    tmp_path_factory: pytest.TempPathFactory, history: list[Mapping[str, list[bytes | None]]]
) -> None:
    folder = tmp_path_factory.mktemp("history")
    store, fresh = Store.open(folder / "store"), Store.open(folder / "fresh")
    embedded: set[str] = set()
    for content in history:
        shards = fill(store, "shop", content, 2)
        reports = embed_shards(store, "shop", THUMBNAIL, shards)
        index = IndexStage(store, "shop").run()
        files = itertools.chain.from_iterable(content.values())
        seen = {sha256_of(data) for data in files if data is not None and data != BROKEN}
        assert sum(report.embedded for report in reports) == len(seen - embedded)
        embedded |= seen
    expected = embed_shards(fresh, "shop", THUMBNAIL, fill(fresh, "shop", history[-1], 2))
    rebuilt = IndexStage(fresh, "shop").run()

    assert _rows(store).sort("id", "image").equals(_rows(fresh).sort("id", "image"))
    assert [r.data_version for r in reports] == [r.data_version for r in expected]
    updated, new = open_index(store, "shop")[1], open_index(fresh, "shop")[1]
    assert updated.entries.drop("number").equals(new.entries.drop("number"))
    assert updated.vectors().tolist() == new.vectors().tolist()
    assert (index.items, index.images) == (rebuilt.items, rebuilt.images)
    again = [EmbeddingStage(store, "shop", THUMBNAIL).run(shard) for shard in shards]
    assert not any(report.changed or report.embedded for report in again)
    assert not IndexStage(store, "shop").run().changed


def test_invariants_and_verification_hold_per_image(store: Store) -> None:
    embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", {"a": [A, B], "b": [A]}))
    update_index(store, "shop")

    assert verify(store).problems == []
    assert catalog_status(store, "shop").stages["index"] == "fresh"


def test_verification_names_an_image_that_is_listed_twice(store: Store) -> None:
    embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", {"a": [A, B]}))
    table = embeddings_table(store, "shop")
    commit = latest_commit(table)
    rows = table.read(commit)
    twice = commit.files[0].with_content(table.write_rows(pl.concat([rows, rows.tail(1)])))
    table.commit(lambda _: PendingCommit([twice], commit.inputs, commit.properties))

    (problem,) = verify(store).problems

    assert problem.location == "shop/embeddings"
    assert "item 'a', image 1 occurs twice" in problem.message


def _rows(store: Store) -> pl.DataFrame:
    table = embeddings_table(store, "shop")
    rows: pl.DataFrame = table.read(latest_commit(table))
    return rows
