"""Groups of items with several images: equal to the definition, after any history."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.catalog.stage import items_table
from imgsim_assets.download.ledger.table import ledger_frame, ledger_table
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.similarity import image_sets, items, row_pairs
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.group_tables import BRIDGES, cross_catalog_groups_table, groups_table
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.orientations import TurnedCatalogs
from imgsim_assets.similarity.settings import CrossCatalogGroupSettings, GroupSettings, LinkSettings
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.image_pool import (
    POOL,
    SHA256,
    SIMILARITY,
    TURNED_SIMILARITY,
    turned_images,
)

# The images of each item, in their order.
Content = Mapping[str, Sequence[int]]
IMAGES = st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=4)
CONTENT = st.dictionaries(st.sampled_from(["a", "a b", "b", "c", "d", "e", "é"]), IMAGES)
VALUES = st.fixed_dictionaries(
    {
        "compare": st.sampled_from(["any", "first", "mean_best"]),
        "threshold": st.sampled_from([0.5, 0.9, 1.0]),
        "max_shared": st.sampled_from([None, 1, 2, 20]),
        "linkage": st.sampled_from(["connected", "star"]),
        "within": st.sampled_from([[], ["brand"]]),
        "ignore": st.sampled_from([None, None, {"list": "ignore.csv", "min_similarity": 0.9}]),
        "orientations": st.booleans(),
    }
)
# The image that the ignore list names.
LISTED = 3


@st.composite
def histories(draw: st.DrawFn, length: int = 3) -> list[Content]:
    """States of a catalog: items come, go, and get other images or another order of them."""
    states: list[Content] = [draw(CONTENT)]
    for _ in range(length - 1):
        state = dict(states[-1]) | draw(CONTENT)
        for item in list(state):
            change = draw(st.sampled_from(["keep", "keep", "remove", "reorder", "append"]))
            if change == "remove":
                del state[item]
            elif change == "reorder":
                state[item] = draw(st.permutations(state[item]))
            elif change == "append":
                state[item] = [*state[item], draw(st.integers(0, len(POOL) - 1))][-4:]
        states.append(state)
    return states


@settings(max_examples=30, deadline=None)
@given(states=histories(), values=VALUES)
def test_groups_equal_the_definition_after_any_history(
    states: list[Content], values: dict[str, object]
) -> None:
    declared = GroupSettings.model_validate(values)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        for content in states:
            _run(store, {"shop": content}, declared)

            rows = _newest(store.table("shop/duplicate_groups"))
            _assert_equal(rows, _expected({"shop": content}, declared))


@settings(max_examples=12, deadline=None)
@given(lefts=histories(2), rights=histories(2), values=VALUES)
def test_groups_across_catalogs_equal_the_definition_after_any_history(
    lefts: list[Content], rights: list[Content], values: dict[str, object]
) -> None:
    declared = CrossCatalogGroupSettings.model_validate(values)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        for left, right in zip(lefts, rights, strict=True):
            catalogs = {"theirs": left, "ours": right}
            _run(store, catalogs, declared)

            rows = _newest(cross_catalog_groups_table(store, "all"))
            named = rows.with_columns(id=pl.col("catalog") + "/" + pl.col("id"))
            _assert_equal(named, _expected(catalogs, declared, prefix=True))


def test_results_do_not_depend_on_how_many_pairs_are_scored_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = {f"i{n}": [n, (n * 3) % 16, (n * 5) % 16] for n in range(12)}
    results = []
    for cells in (1 << 20, 5):
        monkeypatch.setattr(image_sets, "_MAX_CELLS", cells)
        with tempfile.TemporaryDirectory() as folder:
            store = Store.open(folder)
            _run(store, {"shop": content}, GroupSettings(threshold=0.5, compare="mean_best"))
            results.append(_newest(store.table("shop/duplicate_groups")))

    assert results[0].height
    assert results[0].equals(results[1])


def test_rows_name_the_images_that_the_canonical_item_and_a_member_share_most(store: Store) -> None:
    images = {"a": [tiny(1), tiny(2)], "b": [tiny(3), tiny(9, like=2)], "c": [tiny(4), tiny(5)]}
    indexed(store, "shop", images)

    GroupStage(store, "shop", GroupSettings(threshold=0.8, canonical=("first_seen",))).run()

    rows = _newest(groups_table(store, "shop"))
    assert rows.select("group_id", "id", "image", "is_canonical").rows() == [
        ("a", "a", 1, True),
        ("a", "b", 1, False),
    ]
    assert 0.8 <= rows["min_similarity"][0] < 1


def test_bridges_are_between_items(store: Store) -> None:
    images = {"a": [tiny(1), tiny(2)], "b": [tiny(2), tiny(3)], "c": [tiny(3), tiny(4)]}
    indexed(store, "shop", images)

    GroupStage(store, "shop", GroupSettings(threshold=0.99, canonical=("first_seen",))).run()

    table = groups_table(store, "shop")
    commit = table.latest()
    assert commit is not None
    file = commit.file_with_role(BRIDGES)
    assert file is not None
    bridges = table.read_file(file)
    ends = bridges.select("left_id", "right_id").rows()
    assert sorted(map(sorted, ends)) == [["a", "b"], ["b", "c"]]
    assert bridges.select("similarity", "smaller_part").rows() == [(1.0, 1), (1.0, 1)]


def test_size_chart_of_many_items_joins_nothing(store: Store) -> None:
    chart = tiny(0)
    shop = {f"i{n}": [tiny(n), chart] for n in range(1, 23)}
    indexed(store, "shop", {**shop, "copy": [tiny(1)]})

    report = GroupStage(store, "shop", GroupSettings(threshold=0.99)).run()
    allowed = GroupStage(store, "shop", GroupSettings(threshold=0.99, max_shared=None)).run()

    assert (report.groups, report.grouped, report.items, report.images) == (1, 2, 23, 45)
    assert report.left_out == {"shared": 22}
    assert report.shared["items"].to_list() == [22]
    assert (allowed.groups, allowed.grouped) == (1, 23)
    assert allowed.incremental


def test_reordered_images_are_compared_with_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {"a": [tiny(1), tiny(2)], "b": [tiny(3), tiny(2)]}
    indexed(store, "shop", images)
    GroupStage(store, "shop", GroupSettings(threshold=0.9)).run()
    indexed(store, "shop", {item: files[::-1] for item, files in images.items()})
    monkeypatch.setattr(row_pairs, "pairs_above", lambda *_: pytest.fail("compared"))

    report = GroupStage(store, "shop", GroupSettings(threshold=0.9)).run()

    assert (report.changed, report.incremental) == (True, True)
    assert _newest(groups_table(store, "shop"))["image"].to_list() == [0, 0]


# ---- the definition ---------------------------------------------------------------------


class _Row(NamedTuple):
    group: str
    id: str
    image: int
    orientation: str
    similarity: float
    size: int
    minimum: float
    mean: float


def _expected(
    catalogs: Mapping[str, Content], declared: LinkSettings, *, prefix: bool = False
) -> list[_Row]:
    """The rows by comparing every item with every other one; items are canonical by order."""
    images: dict[str, dict[int, int]] = {}
    brands: dict[str, str | None] = {}
    for name, content in catalogs.items():
        for item, numbers in _counted(content, declared).items():
            if numbers:
                key = f"{name}/{item}" if prefix else item
                images[key] = {number: content[item][number] for number in numbers}
                brands[key] = _brand(content[item])
    order = list(catalogs)
    ranked = sorted(images, key=lambda key: (order.index(key.split("/")[0]) if prefix else 0, key))
    similarity = {
        (a, b): _similarity(images[a], images[b], declared)
        for a, b in itertools.product(ranked, repeat=2)
    }

    def is_linked(a: str, b: str) -> bool:
        if declared.within and brands[a] != brands[b]:
            return False
        shares = declared.compare != "mean_best" and set(images[a].values()) & set(
            images[b].values()
        )
        return bool(shares) or similarity[a, b] >= float(str(declared.threshold))

    rows = []
    free = list(ranked)
    while free:
        group, frontier = [free[0]], [free[0]]
        while frontier:
            node = frontier.pop()
            found = [other for other in free if other not in group and is_linked(node, other)]
            group += found
            if declared.linkage == "connected":
                frontier += found
        free = [item for item in free if item not in group]
        if len(group) > 1:
            canonical = set(images[group[0]].values())
            others = [images[item] for item in group if set(images[item].values()) != canonical]
            scores = [similarity[a, b] for a, b in itertools.combinations(group, 2)]
            rows += [
                _Row(
                    group[0],
                    item,
                    *(
                        _nearest(images[item], images[group[0]], declared)
                        if set(images[item].values()) != canonical
                        else _best_shown(images[item], others, declared)
                    ),
                    similarity[group[0], item],
                    len(group),
                    min(scores),
                    sum(scores) / len(scores),
                )
                for item in group
            ]
    return sorted(rows, key=lambda row: (row.group, row.id))


def _similarity(a: Mapping[int, int], b: Mapping[int, int], declared: LinkSettings) -> float:
    table = np.array([[_turned(i, j, declared)[0] for j in b.values()] for i in a.values()])
    if declared.compare == "mean_best":
        return float(min(table.max(axis=0).mean(), table.max(axis=1).mean()))
    return float(table.max())


def _turned(image: int, other: int, declared: LinkSettings) -> tuple[float, int]:
    """The similarity of two images, and the orientation in which the first is so similar."""
    if not declared.orientations or image == other:
        return SIMILARITY[image, other], 0
    is_turned = SHA256[image] < SHA256[other]
    turned, upright = (image, other) if is_turned else (other, image)
    of_turns = [float(TURNED_SIMILARITY[turn][turned, upright]) for turn in range(8)]
    turn = of_turns.index(max(of_turns))
    # Rotations by 90 and 270 undo each other; every other orientation undoes itself.
    return max(of_turns), turn if is_turned else {1: 3, 3: 1}.get(turn, turn)


def _nearest(
    images: Mapping[int, int], canonical: Mapping[int, int], declared: LinkSettings
) -> tuple[int, str]:
    """The number of the image that is nearest to the canonical item, and its orientation."""
    _, turn, number = min(
        (-similarity, turn, number)
        for number, image in images.items()
        for similarity, turn in [_turned(image, c, declared) for c in canonical.values()]
    )
    return number, ORIENTATIONS[turn].name


def _best_shown(
    canonical: Mapping[int, int], others: Sequence[Mapping[int, int]], declared: LinkSettings
) -> tuple[int, str]:
    """The number of the canonical item's image that is nearest to a member with other images."""
    nearness = {
        number: max((_turned(image, i, declared)[0] for o in others for i in o.values()), default=1)
        for number, image in canonical.items()
    }
    return min(nearness, key=lambda number: (-nearness[number], number)), ORIENTATIONS[0].name


def _counted(content: Content, declared: LinkSettings) -> dict[str, list[int]]:
    """The numbers of the images that are compared, of each item."""
    carriers: dict[int, int] = {}
    for images in content.values():
        for image in set(images):
            carriers[image] = carriers.get(image, 0) + 1
    limit = declared.max_shared
    counted = {}
    for item, images in content.items():
        numbers = [
            number
            for number, image in enumerate(images)
            if image not in images[:number]
            and (limit is None or carriers[image] <= limit)
            and not (declared.ignore and SIMILARITY[image, LISTED] >= 0.9)
        ]
        if declared.within and _brand(images) is None:
            numbers = []
        counted[item] = numbers[:1] if declared.compare == "first" else numbers
    return counted


def _brand(images: Sequence[int]) -> str | None:
    """What an item of these images carries; it changes with the first of them."""
    return ("x", "y", None)[images[0] % 3]


def _assert_equal(rows: pl.DataFrame, expected: list[_Row]) -> None:
    found = rows.sort("group_id", "id")
    upright = pl.lit("upright").alias("orientation")
    orientation = "orientation" if "orientation" in rows.columns else upright
    assert found.select("group_id", "id", "image", orientation, "size").rows() == [
        (row.group, row.id, row.image, row.orientation, row.size) for row in expected
    ]
    assert found["is_canonical"].to_list() == [row.group == row.id for row in expected]
    for column, field in (
        ("similarity", "similarity"),
        ("min_similarity", "minimum"),
        ("mean_similarity", "mean"),
    ):
        values = [getattr(row, field) for row in expected]
        np.testing.assert_allclose(found[column], values, atol=1e-12)


# ---- catalogs in memory -----------------------------------------------------------------

_COMMIT = Commit("catalog", 1, (), "", properties={FINGERPRINT: "f"})


def _run(
    store: Store,
    catalogs: Mapping[str, Content],
    declared: GroupSettings | CrossCatalogGroupSettings,
) -> None:
    """Group these catalogs, whose vectors are not in the store."""
    for name, content in catalogs.items():
        rows = [
            {"id": item, "image": number, "url": item, "status": "ok", "sha256": SHA256[image]}
            for item, images in sorted(content.items())
            for number, image in enumerate(images)
        ]
        table = ledger_table(store, name)
        file = table.write_rows(ledger_frame(rows))
        pending = PendingCommit([file])
        table.commit(partial(_always, pending))
        brands = {item: _brand(images) for item, images in content.items()}
        carried = pl.DataFrame(
            list(brands.items()), {"id": pl.String, "brand": pl.String}, orient="row"
        )
        listed = items_table(store, name)
        listed.commit(partial(_always, PendingCommit([listed.write_rows(carried)])))
    root = Path(store.url)
    (root / "ignore.csv").write_text(SHA256[LISTED])
    names = None if isinstance(declared, GroupSettings) else list(catalogs)
    stage = GroupStage(store, "all" if names else "shop", declared, catalogs=names, root=root)
    with (
        mock.patch.object(items, "from_index", lambda _, name: (_COMMIT, _items(catalogs[name]))),
        mock.patch.object(TurnedCatalogs, "turned", turned_images),
    ):
        stage.run()


def _always(pending: PendingCommit, _: Commit | None) -> PendingCommit:
    return pending


def _items(content: Content) -> Items:
    rows = [
        (item, number, SHA256[image], image)
        for item, images in sorted(content.items())
        for number, image in enumerate(images)
    ]
    schema = {"id": pl.String, "image": pl.Int32, "sha256": pl.String, "at": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return Items(frame.drop("at"), POOL[frame["at"].to_numpy()])


def _newest(table: Table) -> pl.DataFrame:
    commit = table.latest()
    assert commit is not None
    return table.read(commit)
