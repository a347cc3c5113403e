"""Items with several images: results equal the definition, after any history."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.similarity import items, row_pairs, selection
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.matches import MatchReport, MatchStage
from imgsim_assets.similarity.orientations import TurnedCatalogs
from imgsim_assets.similarity.settings import Compare, GraphSettings, MatchSettings
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, turned
from imgsim_assets_tests.support.image_pool import (
    POOL,
    SHA256,
    TURNED_SIMILARITY,
    turned_images,
)

# The images of each item, in their order.
Content = Mapping[str, Sequence[int]]
IMAGES = st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=6)
CONTENT = st.dictionaries(st.sampled_from(["a", "a b", "ab", "b", "c", "é"]), IMAGES)
COMPARE = st.sampled_from(["any", "first", "mean_best"])
WITHIN = st.sampled_from([(), ("brand",)])
LIMITS = st.sampled_from([None, 1, 2, 20])
MATCHES = st.builds(
    lambda mode, compare, threshold, max_shared, within, orientations: MatchSettings(
        mode=mode,
        k=2 if mode == "top_k" else None,
        compare=compare,
        threshold=threshold,
        max_shared=max_shared,
        within=within,
        orientations=orientations,
    ),
    st.sampled_from(["all", "best", "top_k", "mutual", "one_to_one"]),
    COMPARE,
    st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
    LIMITS,
    WITHIN,
    st.booleans(),
)


@st.composite
def changed(draw: st.DrawFn, content: Content) -> Content:
    """The content after items were added, removed, or got their images in another order."""
    state = dict(content) | draw(CONTENT)
    for item in list(state):
        change = draw(st.sampled_from(["keep", "keep", "remove", "reorder", "append", "drop"]))
        if change == "remove":
            del state[item]
        elif change == "reorder":
            state[item] = draw(st.permutations(state[item]))
        elif change == "append":
            state[item] = [*state[item], draw(st.integers(0, len(POOL) - 1))][-6:]
        elif change == "drop":
            state[item] = list(state[item])[1:] or [0]
    return state


@st.composite
def histories(draw: st.DrawFn, length: int = 3) -> list[Content]:
    """States of a catalog, each made from the last."""
    states: list[Content] = [draw(CONTENT)]
    for _ in range(length - 1):
        states.append(draw(changed(states[-1])))
    return states


@settings(max_examples=60, deadline=None)
@given(lefts=histories(), rights=histories(), declared=MATCHES)
def test_matches_equal_the_definition_after_any_history(
    lefts: list[Content], rights: list[Content], declared: MatchSettings
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        for left, right in zip(lefts, rights, strict=True):
            rows = _match(store, left, right, declared)

            if declared.mode == "one_to_one":
                _assert_assignment(rows, _scores(left, right, declared))
            else:
                _assert_equal(rows, _expected_matches(left, right, declared))


@settings(max_examples=40, deadline=None)
@given(
    states=histories(),
    k=st.sampled_from([1, 2, 4]),
    compare=COMPARE,
    threshold=st.sampled_from([None, 0.0, 0.5]),
    max_shared=LIMITS,
    within=WITHIN,
    orientations=st.booleans(),
)
def test_edges_equal_the_definition_after_any_history(
    states: list[Content],
    k: int,
    compare: Compare,
    threshold: float | None,
    max_shared: int | None,
    within: tuple[str, ...],
    orientations: bool,
) -> None:
    if compare == "mean_best" and threshold is None:
        threshold = -1.0
    declared = GraphSettings(
        k=k,
        compare=compare,
        threshold=threshold,
        max_shared=max_shared,
        within=within,
        orientations=orientations,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        for content in states:
            with _catalogs(content, content):
                GraphStage(store, "left", declared).run()
            edges = _newest(store, "left/similarity_graph")
            names = {
                name: name.replace("src", "left").replace("dst", "right") for name in edges.columns
            }
            scores = _scores(content, content, declared)
            others = {pair: best for pair, best in scores.items() if pair[0] != pair[1]}

            _assert_equal(edges.rename(names), _ranked(others, k))


@settings(max_examples=40, deadline=None)
@given(
    lefts=histories(),
    rights=histories(),
    first=MATCHES,
    others=st.lists(st.tuples(COMPARE, LIMITS, WITHIN, st.booleans()), min_size=3, max_size=3),
)
def test_matches_equal_the_definition_after_other_settings(
    lefts: list[Content],
    rights: list[Content],
    first: MatchSettings,
    others: list[tuple[Compare, int | None, tuple[str, ...], bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        for left, right, changes in zip(lefts, rights, others, strict=True):
            names = ("compare", "max_shared", "within", "orientations")
            declared = first.model_copy(update=dict(zip(names, changes, strict=True)))

            rows = _match(store, left, right, declared)

            if declared.mode == "one_to_one":
                _assert_assignment(rows, _scores(left, right, declared))
            else:
                _assert_equal(rows, _expected_matches(left, right, declared))


@pytest.mark.parametrize("withins", [((), ("brand",)), (("brand",), ())])
def test_edges_equal_the_definition_after_blocks_were_declared_or_removed(
    store: Store, withins: Sequence[tuple[str, ...]]
) -> None:
    content = {"a": [0], "b": [1], "c": [2], "d": [3, 4]}
    for within in withins:
        declared = GraphSettings(k=3, threshold=-1.0, within=within)

        with _catalogs(content, content):
            GraphStage(store, "left", declared).run()

        edges = _newest(store, "left/similarity_graph")
        scores = _scores(content, content, declared)
        assert edges.height == sum(source != target for source, target in scores)


def test_best_images_name_the_pair_by_the_lowest_numbers() -> None:
    # Two equal vectors in each item, behind an unrelated one.
    left, right = {"l": [6, 0, 11]}, {"r": [8, 11, 0]}

    with tempfile.TemporaryDirectory() as folder:
        rows = _match(Store.open(folder), left, right, MatchSettings(threshold=0.9))

    assert rows.select("left_image", "right_image", "similarity").rows() == [(1, 1, 1.0)]
    assert rows.select("left_sha256", "right_sha256").rows() == [(SHA256[0], SHA256[11])]


def test_reordered_images_are_compared_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = {"l": [6, 0, 11], "m": [2]}, {"r": [8, 11, 0], "s": [3, 4]}
    turned = {item: list(reversed(images)) for item, images in left.items()}
    declared = MatchSettings(threshold=-1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        _match(store, left, right, declared)
        monkeypatch.setattr(row_pairs, "nearest", lambda *_: pytest.fail("compared"))

        rows = _match(store, turned, right, declared)

    _assert_equal(rows, _expected_matches(turned, right, declared))
    assert rows["left_image"].to_list() == [0, 0]


def test_means_follow_images_that_are_in_no_pair_above_the_threshold(store: Store) -> None:
    declared = {"threshold": 0.5, "compare": "mean_best"}
    match = MatchStage(
        store, "pair", MatchSettings(mode="all", **declared), left="left", right="right"
    )
    graph = GraphStage(store, "right", GraphSettings(k=1, **declared))
    images = {"l": [turned(0), turned(1), turned(2), turned(85)]}
    indexed(store, "left", images)
    # To the image at 85 degrees, that at 150 is the nearest, and both are below the threshold.
    for of_right in ([turned(5), turned(150)], [turned(5)], [turned(5), turned(150)]):
        indexed(store, "right", {"r": of_right, "s": images["l"]})
        match.run()
        graph.run()

        nearest = max(math.cos(math.radians(angle)) for angle in (80, 65)[: len(of_right)])
        mean = (sum(math.cos(math.radians(angle)) for angle in (5, 4, 3)) + nearest) / 4
        matches, edges = _newest(store, "matches/pair"), _newest(store, "right/similarity_graph")
        assert matches.filter(pl.col("right_id") == "r")["similarity"].item() == pytest.approx(
            mean, 0.02
        )
        assert edges.filter(pl.col("src_id") == "s")["similarity"].item() == pytest.approx(
            mean, 0.02
        )


def test_report_names_items_and_images_apart() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        _catalogs({"l": [6, 0]}, {"r": [0, 0, 7], "s": [8]}),
    ):
        report = _run(Store.open(folder), MatchSettings(threshold=0.99))

    assert (report.left_items, report.left_images, report.left_matched) == (1, 2, 1)
    assert (report.right_items, report.right_images, report.right_matched) == (2, 4, 1)
    assert report.left_out == {"repeated": 1}


# ---- the definition ---------------------------------------------------------------------

# Of each pair of items the similarity, the images that show it, and the left one's orientation.
Scores = dict[tuple[str, str], tuple[float, int, int, int]]
# left_id, right_id, rank, and what Scores has of the pair.
Row = tuple[str, str, int, float, int, int, int]


def _scores(left: Content, right: Content, declared: MatchSettings | GraphSettings) -> Scores:
    """The pairs of items that reach the threshold."""
    threshold = -1.0 if declared.threshold is None else float(declared.threshold)
    counted = [_counted(content, declared) for content in (left, right)]
    scores: Scores = {}
    for a, left_images in counted[0].items():
        for b, right_images in counted[1].items():
            pairs = [
                (-float(TURNED_SIMILARITY[turn][left[a][i], right[b][j]]), turn, i, j)
                for turn in range(8 if declared.orientations else 1)
                for i in left_images
                for j in right_images
            ]
            brands = _brand(left, a), _brand(right, b)
            if not pairs or (declared.within and (None in brands or brands[0] != brands[1])):
                continue
            best, turn, i, j = min(pairs)
            similarity = -best
            if declared.compare == "mean_best":
                in_order = sorted(left_images, key=lambda n: SHA256[left[a][n]])
                of_left = [-min(pair for pair in pairs if pair[2] == n)[0] for n in in_order]
                similarity = min(similarity, sum(of_left) / len(of_left))
            if similarity >= threshold:
                scores[a, b] = (similarity, i, j, turn)
    return scores


def _brand(content: Content, item: str) -> str | None:
    """A value that changes with the images of an item, and that some items lack."""
    return [None, "acme", "bolt"][sum(content[item]) % 3]


def _counted(content: Content, declared: MatchSettings | GraphSettings) -> dict[str, list[int]]:
    """The numbers of the images that count, of each item."""
    carriers: dict[int, int] = {}
    for images in content.values():
        for image in set(images):
            carriers[image] = carriers.get(image, 0) + 1
    counted = {}
    for item, images in content.items():
        numbers = [
            number
            for number, image in enumerate(images)
            if image not in images[:number]
            and (declared.max_shared is None or carriers[image] <= declared.max_shared)
        ]
        counted[item] = numbers[:1] if declared.compare == "first" else numbers
    return counted


def _ranked(scores: Scores, k: int | None) -> list[Row]:
    rows: list[Row] = []
    for left in sorted({pair[0] for pair in scores}):
        order = sorted((-best[0], pair[1]) for pair, best in scores.items() if pair[0] == left)
        for rank, (_, right) in enumerate(order[:k], start=1):
            rows.append((left, right, rank, *scores[left, right]))
    return rows


def _expected_matches(left: Content, right: Content, declared: MatchSettings) -> list[Row]:
    scores = _scores(left, right, declared)
    if declared.mode == "mutual":
        of_left = {row[:2] for row in _ranked(scores, 1)}
        swapped = {(b, a): best for (a, b), best in scores.items()}
        of_right = {(row[1], row[0]) for row in _ranked(swapped, 1)}
        scores = {pair: scores[pair] for pair in of_left & of_right}
    return _ranked(scores, {"best": 1, "top_k": declared.k}.get(declared.mode))


def _assert_assignment(rows: pl.DataFrame, scores: Scores) -> None:
    """No item is in two pairs, and the total is the greatest; ties leave several solutions."""
    lefts, rights = (sorted({pair[side] for pair in scores}) for side in (0, 1))
    gains = np.zeros((len(lefts), len(rights)))
    for (a, b), best in scores.items():
        gains[lefts.index(a), rights.index(b)] = max(0.0, best[0])
    greatest = gains[linear_sum_assignment(-gains)].sum()
    assert rows["left_id"].n_unique() == rows["right_id"].n_unique() == rows.height
    np.testing.assert_allclose(rows["similarity"].to_numpy().sum(), greatest, atol=1e-9)
    for a, b, *found in rows.select(
        "left_id", "right_id", "similarity", "left_image", "right_image"
    ).iter_rows():
        np.testing.assert_allclose(found, scores[a, b][:3], atol=1e-15)


def _assert_equal(rows: pl.DataFrame, expected: list[Row]) -> None:
    upright = pl.lit("upright").alias("orientation")
    orientation = "orientation" if "orientation" in rows.columns else upright
    columns = ["left_id", "right_id", "rank", "left_image", "right_image"]
    assert rows.select(*columns, orientation).rows() == [
        (a, b, rank, i, j, ORIENTATIONS[turn].name) for a, b, rank, _, i, j, turn in expected
    ]
    np.testing.assert_allclose(rows["similarity"], [row[3] for row in expected], atol=1e-15)


# ---- catalogs in memory -----------------------------------------------------------------

# The versions that the stages read.
_COMMIT = Commit("catalog", 1, (), "", properties={FINGERPRINT: "f"})


def _items(content: Content) -> Items:
    rows = [
        (item, number, SHA256[image], image)
        for item, images in sorted(content.items())
        for number, image in enumerate(images)
    ]
    schema = {"id": pl.String, "image": pl.Int32, "sha256": pl.String, "at": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return Items(frame.drop("at"), POOL[frame["at"].to_numpy()])


@contextmanager
def _catalogs(left: Content, right: Content) -> Iterator[None]:
    """Let the stages read these catalogs instead of the store's."""
    of = {"left": left, "right": right}

    def read(_: Store, name: str) -> tuple[Commit, Items]:
        return _COMMIT, _items(of[name])

    def values(_: Store, name: str, columns: Sequence[str]) -> pl.DataFrame | None:
        brands = {item: _brand(of[name], item) for item in of[name]}
        schema = {"id": pl.String, "value": pl.String}
        return pl.DataFrame(list(brands.items()), schema, orient="row") if columns else None

    with (
        mock.patch.object(selection, "values_within", values),
        mock.patch.object(items, "from_embeddings", read),
        mock.patch.object(items, "from_index", read),
        mock.patch.object(TurnedCatalogs, "turned", turned_images),
    ):
        yield


def _run(store: Store, declared: MatchSettings) -> MatchReport:
    return MatchStage(store, "pair", declared, left="left", right="right").run()


def _match(store: Store, left: Content, right: Content, declared: MatchSettings) -> pl.DataFrame:
    with _catalogs(left, right):
        _run(store, declared)
    return _newest(store, "matches/pair")


def _newest(store: Store, name: str) -> pl.DataFrame:
    table = store.table(name)
    commit = table.latest()
    assert commit is not None
    return table.read(commit)
