from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.errors import StoreError
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.table import empty_reviews
from imgsim_assets.similarity import clustering
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.group_links import link_positions
from imgsim_assets.similarity.group_rows import SCHEMA, group_items
from imgsim_assets.similarity.group_tables import (
    BRIDGES,
    CROSS_CATALOG_SCHEMA,
    cross_catalog_groups_table,
    groups_table,
)
from imgsim_assets.similarity.image_sets import ImageSets
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.neighbor_lists import neighbor_lists
from imgsim_assets.similarity.settings import (
    CanonicalRule,
    CrossCatalogGroupSettings,
    CrossCatalogRule,
    GroupSettings,
    Linkage,
)
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import (
    THUMBNAIL,
    embed_shards,
    indexed,
    repacked,
    tiny,
)
from imgsim_assets_tests.support.downloads import NAME, Catalog
from imgsim_assets_tests.support.histories import history
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.vectors import cosines, families

ACROSS = CrossCatalogGroupSettings(threshold=0.99)
CONNECTED = GroupSettings(threshold=0.8)
STAR = GroupSettings(threshold=0.8, linkage="star")


# ---- groups of given links --------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), linkage=st.sampled_from(["connected", "star"]))
def test_groups_do_not_depend_on_the_order_of_links(seed: int, linkage: Linkage) -> None:
    images, ranked = _catalog(seed)
    lists = neighbor_lists(images, images, JoinSpec(0.8, exclude_self=True))

    rows, bridges = _group_items(ranked, images, lists, linkage)
    disordered = lists.sample(fraction=1, shuffle=True)
    shuffled = _group_items(ranked, images, disordered, linkage)

    assert rows.schema == SCHEMA
    assert rows.equals(shuffled[0])
    assert bridges.equals(shuffled[1])
    assert rows["id"].n_unique() == rows.height
    _assert_described(rows, ranked, images)
    if linkage == "star":
        assert rows.filter(pl.col("similarity") < 0.8).is_empty()
    else:
        _assert_connected(rows, ranked, images)


def test_chain_is_one_connected_group_or_several_stars() -> None:
    angles = np.array([0, 20, 40, 60]) * np.pi / 180
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    keys = pl.DataFrame({"id": list("abcd"), "image": [0] * 4, "sha256": list("abcd")})
    images = Items(keys, vectors)
    lists = neighbor_lists(images, images, JoinSpec(0.9, exclude_self=True))

    ranked = keys.with_columns(protected=pl.lit(value=False))
    connected, bridges = _group_items(ranked, images, lists, "connected")
    star, _ = _group_items(ranked, images, lists, "star")

    assert connected["group_id"].to_list() == ["a"] * 4
    assert connected["min_similarity"][0] == pytest.approx(0.5)
    mean = (3 * np.cos(angles[1]) + 2 * np.cos(angles[2]) + np.cos(angles[3])) / 6
    assert connected["mean_similarity"][0] == pytest.approx(mean)
    assert bridges["left_sha256"].to_list() == ["a", "b", "c"]
    assert bridges["right_sha256"].to_list() == ["b", "c", "d"]
    assert dict(star.select("id", "group_id").iter_rows()) == {
        "a": "a",
        "b": "a",
        "c": "c",
        "d": "c",
    }


@pytest.mark.parametrize("batch", [1, 20])
def test_groups_are_the_same_for_any_batch_size(
    monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    images, ranked = _catalog(1)
    lists = neighbor_lists(images, images, JoinSpec(0.8, exclude_self=True))
    at_once, full_bridges = _group_items(ranked, images, lists, "connected")

    monkeypatch.setattr(clustering, "_PAIRS_PER_BATCH", batch)
    rows, bridges = _group_items(ranked, images, lists, "connected")

    assert_frame_equal(rows, at_once, rel_tol=0, abs_tol=1e-15)
    assert bridges.equals(full_bridges)


def _group_items(
    ranked: pl.DataFrame, images: Items, links: pl.DataFrame, linkage: Linkage
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The groups of items (id, image, sha256, protected) with one image each."""
    return group_items(
        ranked.select("id", "protected"),
        ImageSets.of(ranked, images),
        link_positions(links, images.keys["id"]),
        linkage,
        0.8,
        Decisions.of(empty_reviews(), ranked, ranked).verdicts,
    )


def _catalog(seed: int) -> tuple[Items, pl.DataFrame]:
    """Some images, and items of which several may have the same image, in order of rank."""
    rng = random.Random(seed)
    sha256 = sorted(f"{rng.getrandbits(32):08x}" for _ in range(25))
    keys = pl.DataFrame({"id": sha256, "image": [0] * 25, "sha256": sha256})
    images = Items(keys, families(25, 12, seed))
    members = [*sha256, *rng.choices(sha256, k=10)]
    ranked = pl.DataFrame({"id": [f"i{n}" for n in range(len(members))], "sha256": members})
    protected = pl.Series("protected", rng.choices([True, False], k=35))
    ranked = ranked.with_columns(pl.lit(0).alias("image"), protected)
    return images, ranked.sample(fraction=1, shuffle=True, seed=seed)


def _assert_described(rows: pl.DataFrame, ranked: pl.DataFrame, images: Items) -> None:
    position = {sha256: row for row, sha256 in enumerate(images.keys["sha256"].to_list())}
    order = ranked["id"].to_list()
    for (group,), members in rows.group_by("group_id"):
        vectors = images.vectors[[position[sha256] for sha256 in members["sha256"].to_list()]]
        scores = cosines(vectors, vectors)
        between = scores[np.triu_indices(members.height, k=1)]
        assert members["size"].unique().to_list() == [members.height]
        np.testing.assert_allclose(members["min_similarity"], between.min(), atol=1e-12)
        np.testing.assert_allclose(members["mean_similarity"], between.mean(), atol=1e-12)
        first = min(members["id"].to_list(), key=order.index)
        assert members.filter("is_canonical")["id"].to_list() == [first] == [group]
        protected = set(ranked.filter("protected")["id"].to_list())
        assert set(members.filter("keep")["id"].to_list()) == {
            first,
            *protected.intersection(members["id"].to_list()),
        }
        to_first = scores[members["id"].to_list().index(first)]
        np.testing.assert_allclose(members["similarity"], to_first, atol=1e-12)


def _assert_connected(rows: pl.DataFrame, ranked: pl.DataFrame, images: Items) -> None:
    """Linked items are in one group, and an item without a link is in none."""
    position = {sha256: row for row, sha256 in enumerate(images.keys["sha256"].to_list())}
    scores = cosines(images.vectors, images.vectors)
    group = dict(rows.select("id", "group_id").iter_rows())
    rows_of = [
        (item, position[sha256]) for item, sha256 in ranked.select("id", "sha256").iter_rows()
    ]
    for item, row in rows_of:
        linked = [
            other for other, column in rows_of if other != item and scores[row, column] >= 0.8
        ]
        assert (item in group) == bool(linked)
        assert all(group[other] == group[item] for other in linked)


# ---- the stage --------------------------------------------------------------------------


def test_unchanged_groups_are_not_committed_again(store: Store) -> None:
    images = {"a": tiny(1), "b": repacked(tiny(1)), "c": tiny(1), "d": tiny(2), "e": tiny(60)}
    indexed(store, "shop", images)

    report = GroupStage(store, "shop", GroupSettings(threshold=0.99)).run()
    again = GroupStage(store, "shop", GroupSettings(threshold=0.99)).run()

    rows = _rows(store)
    assert sorted(rows["id"].to_list()) == ["a", "b", "c"]
    assert (report.groups, report.grouped, report.items, report.changed) == (1, 3, 5, True)
    assert (again.version, again.changed) == (report.version, False)


@pytest.mark.parametrize("declared", [CONNECTED, STAR], ids=["connected", "star"])
@pytest.mark.parametrize("seed", range(3))
def test_incremental_groups_equal_a_full_computation_after_any_history(
    store: Store, seed: int, declared: GroupSettings
) -> None:
    for number, images in enumerate(history(seed, 5, "s")):
        indexed(store, "shop", images)
        GroupStage(store, "shop", declared).run()
        updated, full_bridges = _rows(store), _bridges(store)
        fresh = Store.open(f"{store.url}-{number}")
        indexed(fresh, "shop", images)
        GroupStage(fresh, "shop", declared).run()

        assert updated.equals(_rows(fresh))
        assert full_bridges.equals(_bridges(fresh))


@pytest.mark.parametrize(
    ("rule", "first"), [("largest_resolution", "b"), ("largest_file", "c"), ("first_seen", "d")]
)
def test_canonical_item_follows_the_rule(store: Store, rule: CanonicalRule, first: str) -> None:
    indexed(store, "shop", {item: tiny(1) for item in "abcd"})
    _set_facts(store, width=[1, 9, 9, 1], bytes=[5, 5, 6, 5], day=[2, 2, 2, 1])

    GroupStage(store, "shop", GroupSettings(threshold=0.9, canonical=(rule,))).run()

    assert _rows(store)["group_id"].unique().to_list() == [first]


@pytest.mark.parametrize("rule", ["largest_resolution", "largest_file", "first_seen"])
def test_link_is_never_the_copy_to_keep(store: Store, tmp_path: Path, rule: CanonicalRule) -> None:
    catalog = Catalog(store, tmp_path)
    (tmp_path / "z.jpg").write_bytes(jpeg(1))
    (tmp_path / "a.jpg").symlink_to("z.jpg")
    downloads = {"a": "a.jpg", "z": "z.jpg"}
    catalog.declare(downloads)
    catalog.run()
    embed_shards(store, NAME, THUMBNAIL, [Shard(0, 1)])
    IndexStage(store, NAME).run()

    GroupStage(store, NAME, GroupSettings(threshold=0.9, canonical=(rule,))).run()

    table = groups_table(store, NAME)
    commit = table.latest()
    assert commit is not None
    rows = table.read(commit)
    assert rows.filter("is_canonical")["id"].to_list() == ["z"]


def test_groups_change_when_the_canonical_order_changes(store: Store) -> None:
    indexed(store, "shop", {item: tiny(1) for item in "abcd"})
    settings = GroupSettings(threshold=0.9, canonical=("first_seen",))
    for oldest in ("b", "c"):
        _set_facts(store, day=[int(item != oldest) + 1 for item in "abcd"])

        report = GroupStage(store, "shop", settings).run()

        assert report.changed
        assert _rows(store)["group_id"].unique().to_list() == [oldest]


def test_other_canonical_rules_and_linkages_reuse_cached_links(store: Store) -> None:
    indexed(store, "shop", {"a": tiny(1), "b": repacked(tiny(1)), "c": tiny(2)})
    GroupStage(store, "shop", CONNECTED).run()

    ruled = GroupStage(
        store, "shop", GroupSettings(threshold=0.8, canonical=("largest_file",))
    ).run()
    star = GroupStage(store, "shop", STAR).run()
    lower = GroupStage(store, "shop", GroupSettings(threshold=0.7)).run()

    assert (ruled.changed, ruled.incremental) == (True, True)
    assert (star.changed, star.incremental) == (True, True)
    assert (lower.changed, lower.incremental) == (True, False)


def _set_facts(store: Store, *, day: list[int], **facts: list[int]) -> None:
    """Commit other facts about four images to the ledger."""
    table = ledger_table(store, "shop")
    commit = table.latest()
    assert commit is not None
    rows = table.read(commit).sort("id")
    changed = [pl.Series(name, values, rows.schema[name]) for name, values in facts.items()]
    fetched = pl.Series("fetched_at", [datetime(2024, 1, number, tzinfo=UTC) for number in day])
    height = pl.lit(3).cast(rows.schema["height"]).alias("height")
    rows = rows.with_columns(*changed, fetched.cast(rows.schema["fetched_at"]), height)
    file = table.write_rows(rows)
    table.commit(lambda base: PendingCommit([file], commit.inputs, commit.properties))


def test_groups_without_an_index_are_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="shop/index has no version yet"):
        GroupStage(store, "shop", GroupSettings()).run()


# ---- across catalogs ------------------------------------------------------------------


def test_groups_across_catalogs_join_equal_images_of_all_catalogs(store: Store) -> None:
    indexed(store, "ours", {"1": tiny(1), "2": tiny(2), "a/b": tiny(3)})
    indexed(store, "theirs", {"1": tiny(4), "x": repacked(tiny(1)), "y": tiny(1)})
    indexed(store, "others", {"z": repacked(tiny(3))})

    report = GroupStage(store, "all", ACROSS, catalogs=["theirs", "ours", "others"]).run()
    again = GroupStage(store, "all", ACROSS, catalogs=["theirs", "ours", "others"]).run()

    rows = _across(store)
    assert rows.schema == CROSS_CATALOG_SCHEMA
    assert rows.select("group_id", "catalog", "id", "is_canonical").rows() == [
        ("ours/a/b", "ours", "a/b", True),
        ("ours/a/b", "others", "z", False),
        ("theirs/x", "theirs", "x", True),
        ("theirs/x", "ours", "1", False),
        ("theirs/x", "theirs", "y", False),
    ]
    assert rows["min_similarity"].to_list() == [1.0] * 5
    assert (report.groups, report.grouped, report.items, report.changed) == (2, 5, 7, True)
    assert (again.version, again.changed) == (report.version, False)


@pytest.mark.parametrize(
    ("rules", "catalogs", "first"),
    [
        (["catalog_order"], ["a", "b"], "a/1"),
        (["catalog_order"], ["b", "a"], "b/1"),
        (["catalog_order", "largest_resolution"], ["b", "a"], "b/2"),
        (["largest_resolution", "catalog_order"], ["a", "b"], "b/2"),
        (["largest_resolution"], ["b", "a"], "b/2"),
    ],
)
def test_order_of_catalogs_decides_only_with_the_rule_catalog_order(
    store: Store, rules: list[CrossCatalogRule], catalogs: list[str], first: str
) -> None:
    for name, items, width in (("a", "1", 5), ("b", "123", 7)):
        indexed(store, name, {item: tiny(1) for item in items})
        _set_widths(store, name, {"2": 9}, width)

    GroupStage(
        store,
        "all",
        CrossCatalogGroupSettings(threshold=0.9, canonical=tuple(rules)),
        catalogs=catalogs,
    ).run()

    assert _across(store)["group_id"].unique().to_list() == [first]


@pytest.mark.parametrize("linkage", ["connected", "star"])
@pytest.mark.parametrize("seed", range(2))
def test_incremental_groups_across_catalogs_equal_a_full_computation(
    store: Store, seed: int, linkage: Linkage
) -> None:
    declared = CrossCatalogGroupSettings(threshold=0.8, linkage=linkage)
    sides = zip(history(seed, 5, "s"), history(seed + 50, 5, "s"), strict=True)
    for number, (left, right) in enumerate(sides):
        fresh = Store.open(f"{store.url}-{number}")
        for each in (store, fresh):
            indexed(each, "left", left)
            indexed(each, "right", right)
            GroupStage(each, "all", declared, catalogs=["left", "right"]).run()

        assert _across(store).equals(_across(fresh))


def test_groups_across_different_encoders_are_an_error(store: Store) -> None:
    indexed(store, "a", {"1": tiny(1)})
    indexed(store, "b", {"1": tiny(1)}, THUMBNAIL.model_copy(update={"version": "2"}))

    with pytest.raises(StoreError, match=r"cannot be compared: a by .* and b by .*; give both"):
        GroupStage(store, "all", ACROSS, catalogs=["a", "b"]).run()


def _across(store: Store) -> pl.DataFrame:
    commit = cross_catalog_groups_table(store, "all").latest()
    assert commit is not None
    return cross_catalog_groups_table(store, "all").read(commit)


def _set_widths(store: Store, name: str, widths: dict[str, int], other: int) -> None:
    """Commit the widths of images to the ledger."""
    table = ledger_table(store, name)
    commit = table.latest()
    assert commit is not None
    rows = table.read(commit)
    wide = pl.Series("width", [widths.get(item, other) for item in rows["id"]])
    sized = rows.with_columns(
        wide.cast(rows.schema["width"]), pl.lit(3).cast(rows.schema["height"]).alias("height")
    )
    file = table.write_rows(sized)
    table.commit(lambda base: PendingCommit([file], commit.inputs, commit.properties))


def _rows(store: Store) -> pl.DataFrame:
    commit = groups_table(store, "shop").latest()
    assert commit is not None
    return groups_table(store, "shop").read(commit)


def _bridges(store: Store) -> pl.DataFrame:
    table = groups_table(store, "shop")
    commit = table.latest()
    assert commit is not None
    file = commit.file_with_role(BRIDGES)
    assert file is not None
    return table.read_file(file)


def test_run_that_another_one_overtook_with_the_same_groups_commits_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(store, "shop", {f"i{seed}": tiny(seed) for seed in range(4)})
    compute = GroupStage._grouped

    def overtaken(self: GroupStage, *args: Any) -> Any:
        result = compute(self, *args)
        monkeypatch.setattr(GroupStage, "_grouped", compute)
        GroupStage(store, "shop", GroupSettings(threshold=-1)).run()
        return result

    monkeypatch.setattr(GroupStage, "_grouped", overtaken)

    report = GroupStage(store, "shop", GroupSettings(threshold=-1)).run()

    assert groups_table(store, "shop").versions() == [1]
    assert report.version == 1


def test_default_threshold_does_not_join_different_items_of_one_kind(store: Store) -> None:
    """Sixty products that look alike, as motorbikes on white do, and a copy of one."""
    shop = {f"i{number:02}": tiny(number, like=0) for number in range(1, 61)}
    indexed(store, "shop", {**shop, "copy": repacked(shop["i07"])})

    loose = GroupStage(store, "shop", GroupSettings(threshold=0.8), variant="loose").run()
    report = GroupStage(store, "shop", GroupSettings()).run()

    assert (loose.groups, loose.grouped) == (1, 61)
    assert _rows(store)["id"].to_list() == ["copy", "i07"]
    assert report.threshold > 0.9
