"""Groups never hold a pair that was judged different, after any history."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.pipeline.decisions import record_decisions
from imgsim_assets.pipeline.group_checks import groups_coherent
from imgsim_assets.pipeline.settings import CheckSettings
from imgsim_assets.pipeline.status import store_status
from imgsim_assets.reviews.table import SCHEMA, add_reviews
from imgsim_assets.similarity.clustering import connected_components, star_clusters
from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.decided_groups import DecidedNodes, decided_clusters
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.group_tables import DECISIONS, groups_table
from imgsim_assets.similarity.settings import CrossCatalogGroupSettings, GroupSettings, Linkage
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.similarity import test_groups_of_several_images as laws
from imgsim_assets_tests.similarity.test_groups_of_several_images import Content
from imgsim_assets_tests.support.catalogs import indexed, sha256_of, tiny, turned
from imgsim_assets_tests.support.image_pool import SHA256

_NOON = datetime(2026, 5, 31, 12, tzinfo=UTC)
_NODES = 8
_LINK = st.tuples(st.integers(0, _NODES - 1), st.integers(0, _NODES - 1)).filter(
    lambda link: link[0] < link[1]
)
Link = tuple[int, int]


# ---- clusters ---------------------------------------------------------------------------


@st.composite
def decided_graphs(draw: st.DrawFn) -> tuple[set[Link], dict[Link, float], set[Link], set[Link]]:
    """Links, the similarity of every pair (with many ties), matches and different pairs."""
    links = draw(st.sets(_LINK, max_size=14))
    values = draw(st.lists(st.sampled_from([0.5, 0.7, 0.9]), min_size=28, max_size=28))
    pairs = itertools.combinations(range(_NODES), 2)
    verdicts = draw(st.dictionaries(_LINK, st.booleans(), max_size=6))
    matches = {pair for pair, is_match in verdicts.items() if is_match}
    return links, dict(zip(pairs, values, strict=True)), matches, verdicts.keys() - matches


@settings(max_examples=150, deadline=None)
@given(graph=decided_graphs(), ranks=st.permutations(range(_NODES)))
def test_components_part_at_their_weakest_links(
    graph: tuple[set[Link], dict[Link, float], set[Link], set[Link]], ranks: list[int]
) -> None:
    links, similarity, matches, different = graph

    clusters = _clusters(graph, ranks, "connected")

    label = {node: node for node in range(_NODES)}
    order = sorted(
        links | matches,
        key=lambda link: (link not in matches, -similarity[link], *sorted(ranks[n] for n in link)),
    )
    for a, b in order:
        old, new = label[a], label[b]
        joined = {node for node in label if label[node] in (old, new)}
        if not any(set(pair) <= joined for pair in different):
            label = {node: new if value == old else value for node, value in label.items()}
    expected = {frozenset(n for n in label if label[n] == each) for each in label.values()}
    assert set(map(frozenset, clusters)) == expected


@settings(max_examples=150, deadline=None)
@given(graph=decided_graphs(), ranks=st.permutations(range(_NODES)))
def test_members_of_a_star_are_linked_to_its_center_and_none_are_different(
    graph: tuple[set[Link], dict[Link, float], set[Link], set[Link]], ranks: list[int]
) -> None:
    links, _, matches, different = graph

    clusters = _clusters(graph, ranks, "star")

    assert sorted(itertools.chain(*clusters)) == list(range(_NODES))
    for center, *others in clusters:
        assert all(ranks[center] < ranks[node] for node in others)
        assert {tuple(sorted((center, node))) for node in others} <= links | matches
        assert not any(set(pair) <= {center, *others} for pair in different)


@settings(max_examples=100, deadline=None)
@given(
    graph=decided_graphs(),
    ranks=st.permutations(range(_NODES)),
    linkage=st.sampled_from(["connected", "star"]),
)
def test_components_without_different_pairs_stay_as_they_are(
    graph: tuple[set[Link], dict[Link, float], set[Link], set[Link]],
    ranks: list[int],
    linkage: Linkage,
) -> None:
    links, _, matches, different = graph
    cluster = star_clusters if linkage == "star" else connected_components
    both = _array(sorted(links | matches))
    components = [each.members for each in connected_components(both, np.array(ranks))]
    whole = [
        set(nodes) for nodes in components if not any(set(pair) <= set(nodes) for pair in different)
    ]

    found = _clusters(graph, ranks, linkage)

    plain = [each.members for each in cluster(both, np.array(ranks))]
    untouched = [nodes for nodes in plain if any(set(nodes) <= each for each in whole)]
    assert all(nodes in found for nodes in untouched)


def _clusters(
    graph: tuple[set[Link], dict[Link, float], set[Link], set[Link]],
    ranks: list[int],
    linkage: Linkage,
) -> list[list[int]]:
    links, similarity, matches, different = graph

    def score(a: Indices, b: Indices) -> Doubles:
        ends = zip(a.tolist(), b.tolist(), strict=True)
        return np.array([similarity[i, j] for i, j in ends], dtype=np.float64)

    decided = DecidedNodes(_array(sorted(matches)), _array(sorted(different)))
    rank = np.array(ranks, dtype=np.int64)
    found = decided_clusters(_array(sorted(links)), rank, linkage, decided, score)
    for each in found:
        inside = set(each.members)
        assert each.links == [link for link in sorted(links | matches) if set(link) <= inside]
    return [each.members for each in found]


def _array(links: Sequence[Link]) -> Indices:
    return np.array(links, dtype=np.int64).reshape(-1, 2)


# ---- histories of catalogs and decisions ------------------------------------------------

_ITEMS = st.sampled_from(["a", "a b", "b", "c", "d", "e", "é"])
_DECISIONS = st.lists(
    st.tuples(
        _ITEMS,
        _ITEMS,
        st.integers(0, 3),
        st.integers(0, 3),
        st.sampled_from(["match", "different", "different", "unsure", "cleared"]),
    ),
    max_size=6,
)


@settings(max_examples=30, deadline=None)
@given(
    states=laws.histories(),
    decided=st.lists(_DECISIONS, min_size=3, max_size=3),
    values=laws.VALUES,
    across=st.booleans(),
)
def test_groups_after_any_history_are_those_of_a_rebuild_and_hold_no_different_pair(
    states: list[Content],
    decided: list[list[tuple[str, str, int, int, str]]],
    values: dict[str, object],
    across: bool,
) -> None:
    prefix, name = ("ours/", "all") if across else ("", "shop")
    kind = CrossCatalogGroupSettings if across else GroupSettings
    declared = kind.model_validate(values)
    latest: dict[tuple[str, str], tuple[str, str, str]] = {}
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        store = Store.open(folder)
        for step, content in enumerate(states):
            for number, (a, b, i, j, verdict) in enumerate(decided[step]):
                if a not in content or b not in content or a == b:
                    continue
                images = [SHA256[content[x][n % len(content[x])]] for x, n in ((a, i), (b, j))]
                time = _NOON + timedelta(minutes=100 * step + number)
                rows.append((prefix + a, prefix + b, *images, verdict, "ann", None, time, None))
                ends = sorted(zip((a, b), images, strict=True))
                latest[ends[0][0], ends[1][0]] = (ends[0][1], ends[1][1], verdict)
            reviews = pl.DataFrame(rows, schema=SCHEMA, orient="row")
            add_reviews(store.table(f"reviews/groups/{name}"), reviews)
            catalogs = {"ours": content, "theirs": {}} if across else {"shop": content}
            laws._run(store, catalogs, declared)
            table = "duplicate_groups/all" if across else "shop/duplicate_groups"
            found = laws._newest(store.table(table))

            group = dict(found.select("id", "group_id").iter_rows())
            standing = {
                pair: verdict
                for pair, (*images, verdict) in latest.items()
                if verdict != "cleared"
                and all(
                    sha256 in [SHA256[image] for image in content.get(item, ())]
                    for item, sha256 in zip(pair, images, strict=True)
                )
            }
            for (a, b), verdict in standing.items():
                assert verdict != "different" or a not in group or group[a] != group.get(b)
            for item, canonical, verdict in found.select("id", "group_id", "verdict").iter_rows():
                left, right = sorted((item, canonical.removeprefix(prefix)))
                expected = standing.get((left, right))
                assert verdict in ([expected] if expected else [None, "reopened"])
        rebuilt = Store.open(other)
        add_reviews(rebuilt.table(f"reviews/groups/{name}"), reviews)
        laws._run(rebuilt, catalogs, declared)
        assert laws._newest(rebuilt.table(table)).equals(found)


# ---- through the stage ------------------------------------------------------------------


def _groups(store: Store, **values: object) -> list[list[str]]:
    declared = GroupSettings.model_validate(
        {"threshold": 0.85, "canonical": "first_seen", **values}
    )
    GroupStage(store, "shop", declared).run()
    table = groups_table(store, "shop")
    commit = table.latest()
    assert commit is not None
    rows = table.read(commit).group_by("group_id").agg("id").sort("group_id")
    return [sorted(ids) for ids in rows["id"]]


def _decide(store: Store, a: str, b: str, verdict: str, images: dict[str, bytes]) -> None:
    row = {
        "left_id": a,
        "right_id": b,
        "left_sha256": sha256_of(images[a]),
        "right_sha256": sha256_of(images[b]),
        "verdict": verdict,
    }
    record_decisions(store, "groups/shop", [row], "ann", _NOON)


@pytest.fixture
def chain() -> dict[str, bytes]:
    """Images that are linked in a chain: 0, 20, 45 and 68 degrees."""
    return {f"{angle:02}": turned(angle) for angle in (0, 20, 45, 68)}


def test_different_ends_part_a_chain_at_its_weakest_link(
    store: Store, chain: dict[str, bytes]
) -> None:
    indexed(store, "shop", chain)
    assert _groups(store) == [["00", "20", "45", "68"]]

    _decide(store, "68", "00", "different", chain)
    assert _groups(store) == [["00", "20"], ["45", "68"]]

    _decide(store, "68", "00", "cleared", chain)
    assert _groups(store) == [["00", "20", "45", "68"]]


def test_items_with_the_same_image_can_be_judged_different(store: Store) -> None:
    images = {"a": tiny(1), "b": tiny(1), "c": tiny(1)}
    indexed(store, "shop", images)
    assert _groups(store) == [["a", "b", "c"]]

    _decide(store, "a", "b", "different", images)

    assert _groups(store) == [["a", "c"]]


def test_match_joins_groups_below_the_threshold_and_is_no_suspicion(store: Store) -> None:
    images = {"a": tiny(1), "b": tiny(2)}
    indexed(store, "shop", images)
    assert _groups(store) == []

    _decide(store, "a", "b", "match", images)

    assert _groups(store) == [["a", "b"]]
    table = groups_table(store, "shop")
    commit = table.latest()
    assert commit is not None
    assert table.read(commit).select("verdict", "judged").rows() == [(None, 1), ("match", 1)]
    assert groups_coherent(table, commit, CheckSettings()).passed


def test_group_that_holds_a_different_pair_is_suspicious(store: Store) -> None:
    indexed(store, "shop", {"a": tiny(1), "b": tiny(1)})
    assert _groups(store) == [["a", "b"]]
    table = groups_table(store, "shop")
    verdicts = pl.DataFrame({"left_id": ["a"], "right_id": ["b"], "verdict": ["different"]})
    file = table.write_rows(verdicts, role=DECISIONS)

    def with_decision(base: Commit | None) -> PendingCommit:
        assert base is not None
        return PendingCommit([*base.files, file], properties=base.properties)

    commit = table.commit(with_decision)

    assert commit is not None
    problem = groups_coherent(table, commit, CheckSettings()).problem
    assert "it holds a pair that was judged different" in problem


def test_status_knows_that_a_decision_is_not_honoured_yet(store: Store) -> None:
    images = {"a": tiny(1), "b": tiny(1)}
    indexed(store, "shop", images)
    _groups(store)
    states = [store_status(store).groups[0].freshness]
    _decide(store, "a", "b", "different", images)
    states.append(store_status(store).groups[0].freshness)
    _groups(store)
    states.append(store_status(store).groups[0].freshness)

    assert states == ["fresh", "stale", "fresh"]


def test_changed_image_reopens_the_decision_and_the_row_says_so(store: Store) -> None:
    images = {"a": tiny(1), "b": tiny(1)}
    indexed(store, "shop", images)
    assert _groups(store) == [["a", "b"]]
    _decide(store, "a", "b", "different", images)
    assert _groups(store) == []

    indexed(store, "shop", {"a": tiny(1), "b": tiny(9, like=1)})

    assert _groups(store) == [["a", "b"]]
    table = groups_table(store, "shop")
    commit = table.latest()
    assert commit is not None
    assert table.read(commit)["verdict"].to_list() == [None, "reopened"]


def test_decisions_that_change_nothing_compare_nothing(
    store: Store, chain: dict[str, bytes]
) -> None:
    indexed(store, "shop", chain)
    _groups(store)
    _decide(store, "00", "20", "unsure", chain)

    report = GroupStage(
        store, "shop", GroupSettings(threshold=0.85, canonical=("first_seen",))
    ).run()

    assert (report.changed, report.incremental, report.decisions) == (True, True, {"unsure": 1})
