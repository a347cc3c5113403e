"""People's decisions come before the ranking, after any history of catalogs and decisions."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.reviews.table import SCHEMA, add_reviews, reviews_table
from imgsim_assets.similarity.item_pairs import in_order
from imgsim_assets.similarity.matches import match_table
from imgsim_assets.similarity.neighbor_lists import with_rank
from imgsim_assets.similarity.population import matches_before_decisions
from imgsim_assets.similarity.settings import MatchSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.similarity import test_several_images as laws
from imgsim_assets_tests.similarity.test_several_images import Content, Row, Scores
from imgsim_assets_tests.support.image_pool import SHA256

_NOON = datetime(2026, 5, 31, 12, tzinfo=UTC)
Pair = tuple[str, str]
_ITEMS = st.sampled_from(["a", "a b", "ab", "b", "c", "é"])
# About which items, which of their images (modulo their number), and what was decided.
_DECISIONS = st.lists(
    st.tuples(
        _ITEMS,
        _ITEMS,
        st.integers(0, 5),
        st.integers(0, 5),
        st.sampled_from(["match", "different", "different", "unsure", "cleared"]),
    ),
    max_size=6,
)
_DECLARED = st.builds(
    lambda mode, compare, threshold: MatchSettings(
        mode=mode, k=2 if mode == "top_k" else None, compare=compare, threshold=threshold
    ),
    st.sampled_from(["all", "best", "top_k", "mutual"]),
    laws.COMPARE,
    st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
)


@settings(max_examples=60, deadline=None)
@given(
    lefts=laws.histories(),
    rights=laws.histories(),
    decided=st.lists(_DECISIONS, min_size=3, max_size=3),
    declared=_DECLARED,
)
def test_matches_equal_the_definition_after_any_history_of_decisions(
    lefts: list[Content],
    rights: list[Content],
    decided: list[list[tuple[str, str, int, int, str]]],
    declared: MatchSettings,
) -> None:
    latest: dict[Pair, tuple[str, str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        for step, (left, right) in enumerate(zip(lefts, rights, strict=True)):
            rows = []
            for number, (a, b, i, j, verdict) in enumerate(decided[step]):
                if a not in left or b not in right:
                    continue
                images = [SHA256[of[n % len(of)]] for of, n in ((left[a], i), (right[b], j))]
                time = _NOON + timedelta(minutes=100 * step + number)
                rows.append((a, b, *images, verdict, "ann", None, time, None))
                latest[a, b] = (images[0], images[1], verdict)
            reviews = pl.DataFrame(rows, schema=SCHEMA, orient="row")
            add_reviews(reviews_table(store, "pair"), reviews)

            found = laws._match(store, left, right, declared)

            verdicts = _standing(left, right, latest)
            laws._assert_equal(found, _expected(left, right, declared, verdicts))
            reopened = {pair for pair in latest if latest[pair][2] != "cleared"} - verdicts.keys()
            assert found["verdict"].to_list() == [
                "reopened" if pair in reopened else verdicts.get(pair)
                for pair in found.select("left_id", "right_id").iter_rows()
            ]
            before = _before_decisions(store, found)
            laws._assert_equal(before, _expected(left, right, declared, {}))


def _before_decisions(store: Store, rows: pl.DataFrame) -> pl.DataFrame:
    """The pairs that match before decisions, with their ranks."""
    table = match_table(store, "pair")
    commit = table.latest()
    assert commit is not None
    return with_rank(in_order(matches_before_decisions(table, commit, rows)))


def _standing(
    left: Content, right: Content, latest: Mapping[Pair, tuple[str, str, str]]
) -> dict[Pair, str]:
    """The verdicts about images that the items still have."""
    return {
        (a, b): verdict
        for (a, b), (left_sha256, right_sha256, verdict) in latest.items()
        if verdict != "cleared"
        and left_sha256 in [SHA256[image] for image in left.get(a, ())]
        and right_sha256 in [SHA256[image] for image in right.get(b, ())]
    }


def _expected(
    left: Content, right: Content, declared: MatchSettings, verdicts: Mapping[Pair, str]
) -> list[Row]:
    everything = laws._scores(left, right, declared.model_copy(update={"threshold": -1.0}))
    above = laws._scores(left, right, declared)
    allowed = {pair: above[pair] for pair in above if verdicts.get(pair) != "different"}
    matches = {pair: everything[pair] for pair in everything if verdicts.get(pair) == "match"}
    if declared.mode == "mutual":
        swapped = [{(b, a): best for (a, b), best in each.items()} for each in (allowed, matches)]
        of_left, of_right = _best(allowed, matches, 1), _best(swapped[0], swapped[1], 1)
        chosen = {pair for pair in of_left if (pair[1], pair[0]) in of_right}
    else:
        chosen = set(_best(allowed, matches, {"best": 1, "top_k": declared.k}.get(declared.mode)))
    return laws._ranked({pair: everything[pair] for pair in chosen}, None)


def _best(allowed: Scores, matches: Scores, k: int | None) -> list[Pair]:
    """Of each left item all matches, then the best others until there are k."""
    best: list[Pair] = []
    for item in sorted({pair[0] for pair in [*allowed, *matches]}):
        own = [pair for pair in matches if pair[0] == item]
        others = sorted(
            (pair for pair in allowed if pair[0] == item and pair not in matches),
            key=lambda pair: (-allowed[pair][0], pair[1]),
        )
        best += [*own, *others[: None if k is None else max(0, k - len(own))]]
    return best


def test_with_one_to_one_decided_matches_keep_their_items_from_other_pairs() -> None:
    left, right = {"l": [0], "m": [1]}, {"r": [0], "s": [11]}
    decision = ("l", "s", SHA256[0], SHA256[11], "match", "ann", None, _NOON, None)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        add_reviews(
            reviews_table(store, "pair"), pl.DataFrame([decision], schema=SCHEMA, orient="row")
        )

        rows = laws._match(store, left, right, MatchSettings(mode="one_to_one", threshold=0.0))

    assert ("l", "s") in rows.select("left_id", "right_id").rows()
    assert rows["left_id"].n_unique() == rows["right_id"].n_unique() == rows.height


def test_a_decision_without_effect_commits_once_and_then_nothing() -> None:
    left, right = {"l": [0]}, {"r": [0]}
    decision = ("l", "r", SHA256[0], SHA256[0], "unsure", "ann", None, _NOON, None)
    with tempfile.TemporaryDirectory() as folder, laws._catalogs(left, right):
        store = Store.open(folder)
        versions = [laws._run(store, MatchSettings(threshold=0.5)).version]
        add_reviews(
            reviews_table(store, "pair"), pl.DataFrame([decision], schema=SCHEMA, orient="row")
        )
        versions += [laws._run(store, MatchSettings(threshold=0.5)).version for _ in range(2)]

    assert versions == [1, 2, 2]
