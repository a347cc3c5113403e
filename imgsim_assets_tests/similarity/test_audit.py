from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.similarity import audit, audit_scores
from imgsim_assets.similarity.audit import Audit, audit_graph, audit_matches, drift
from imgsim_assets.similarity.audit_scores import ScoredItems
from imgsim_assets.similarity.graph import GraphStage, graph_table
from imgsim_assets.similarity.matches import MatchReport, MatchStage, match_table
from imgsim_assets.similarity.settings import GraphSettings, MatchSettings
from imgsim_assets.storage.commit import ROWS, Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, repacked, sha256_of, tiny
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.histories import Images, history
from imgsim_assets_tests.support.vectors import Doubles

# The right side has copies, repacked copies and look-alikes of the left one's images.
LEFT: Images = {f"l{seed}": tiny(seed) for seed in range(8)}
RIGHT: Images = {
    **{f"r{seed}": repacked(tiny(seed)) for seed in range(4)},
    **{f"s{seed}": tiny(100 + seed, like=seed) for seed in range(8)},
    "t": tiny(60),
}
MODES = [
    MatchSettings(mode="all", threshold=0.5),
    MatchSettings(mode="best", threshold=0.5),
    MatchSettings(mode="top_k", k=2, threshold=0.5),
    MatchSettings(mode="mutual", threshold=0.5),
    MatchSettings(mode="one_to_one", threshold=0.5),
]
GRAPHS = [GraphSettings(k=2), GraphSettings(k=2, threshold=0.5), GraphSettings(k=50)]
UNRELATED = ("l0", "t", 0.01)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which LEFT and RIGHT are indexed."""
    store = Store.open(tmp_path_factory.mktemp("built"))
    indexed(store, "left", LEFT)
    indexed(store, "right", RIGHT)
    return Path(store.url)


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_audit_passes_correct_matches(shops: Store, settings: MatchSettings) -> None:
    _match(shops, settings)

    assert audit_matches(shops, "pair", sample=100) == Audit(8, 0, 0, ())
    assert audit_matches(shops, "pair", sample=100).passed


@pytest.mark.parametrize("seed", range(2))
def test_audit_passes_correct_results_with_ties_after_any_history(store: Store, seed: int) -> None:
    sides = zip(history(seed, 4, "s"), history(seed + 100, 4, "s"), strict=True)
    for left, right in sides:
        indexed(store, "left", left)
        indexed(store, "right", right)
        for settings in (*MODES, MatchSettings(mode="mutual", threshold=-1)):
            _match(store, settings)

            assert audit_matches(store, "pair", sample=100).passed
        for graph in GRAPHS:
            GraphStage(store, "left", graph).run()

            assert audit_graph(store, "left", sample=100).passed


@pytest.mark.parametrize("settings", [MODES[0], MODES[1], *MODES[2:]], ids=str)
def test_audit_reports_a_missing_match(shops: Store, settings: MatchSettings) -> None:
    _match(shops, settings)
    _doctor(match_table(shops, "pair"), lambda rows: rows.filter(pl.col("left_id") != "l5"))

    result = audit_matches(shops, "pair", sample=100)

    assert (result.missing, result.false, result.passed) == (1, 0, False)
    assert result.examples == ("missing: l5 s5",)


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_audit_reports_a_false_match(shops: Store, settings: MatchSettings) -> None:
    _match(shops, settings)
    _doctor(match_table(shops, "pair"), lambda rows: _with_pair(rows, *UNRELATED))

    result = audit_matches(shops, "pair", sample=100)

    assert (result.missing, result.false, result.passed) == (0, 1, False)
    assert result.examples == ("false: l0 t",)


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_audit_reports_a_match_with_an_unknown_item_as_false(
    shops: Store, settings: MatchSettings
) -> None:
    _match(shops, settings)
    _doctor(match_table(shops, "pair"), lambda rows: _with_pair(rows, "l0", "who", 0.99))

    assert audit_matches(shops, "pair", sample=100).false == 1


def test_audit_reports_the_missing_kth_match(shops: Store) -> None:
    _match(shops, MODES[2])
    last = (pl.col("left_id") == "l1") & (pl.col("rank") == 2)
    _doctor(match_table(shops, "pair"), lambda rows: rows.filter(~last))

    assert audit_matches(shops, "pair", sample=100).examples == ("missing: l1 s1",)


@pytest.mark.parametrize("settings", [MODES[1], MODES[3]], ids=str)
def test_audit_reports_the_second_best_match_instead_of_the_best(
    shops: Store, settings: MatchSettings
) -> None:
    _match(shops, settings)
    second = pl.when(pl.col("left_id") == "l1").then(pl.lit("s1")).otherwise("right_id")
    _doctor(match_table(shops, "pair"), lambda rows: rows.with_columns(right_id=second))

    result = audit_matches(shops, "pair", sample=100)

    assert (result.missing, result.false) == (1, 1)
    assert result.examples == ("missing: l1 r1", "false: l1 s1")


def test_audit_reports_a_one_sided_best_match_as_not_mutual(store: Store) -> None:
    indexed(store, "left", {"copy": tiny(1), "like": tiny(50, like=1)})
    indexed(store, "right", {"r": tiny(1), "t": tiny(60)})
    _match(store, MatchSettings(mode="mutual", threshold=0.5))
    assert audit_matches(store, "pair", sample=9).passed
    _doctor(match_table(store, "pair"), lambda rows: _with_pair(rows, "like", "r", 0.9))

    assert audit_matches(store, "pair", sample=9).examples == ("false: like r",)


@pytest.mark.parametrize("settings", GRAPHS, ids=str)
def test_audit_passes_a_correct_graph_and_reports_a_missing_edge(
    shops: Store, settings: GraphSettings
) -> None:
    GraphStage(shops, "right", settings).run()
    assert audit_graph(shops, "right", sample=100) == Audit(13, 0, 0, ())
    nearest = (pl.col("src_id") == "r1") & (pl.col("rank") == 1)
    _doctor(graph_table(shops, "right"), lambda rows: rows.filter(~nearest))

    result = audit_graph(shops, "right", sample=100)

    assert (result.missing, result.false) == (1, 0)
    assert result.examples == ("missing: r1 s1",)


def test_graph_of_an_earlier_version_that_names_no_images_is_audited(shops: Store) -> None:
    GraphStage(shops, "right", GRAPHS[0]).run()
    images = ["src_image", "dst_image", "src_sha256", "dst_sha256"]
    _doctor(graph_table(shops, "right"), lambda rows: rows.drop(images))
    assert audit_graph(shops, "right", sample=100).passed
    _doctor(graph_table(shops, "right"), lambda rows: rows.with_columns(similarity=0.0))

    assert not audit_graph(shops, "right", sample=100).passed


@pytest.mark.parametrize("settings", GRAPHS, ids=str)
@pytest.mark.parametrize("to", ["r1", "who"])
def test_audit_reports_self_loops_and_edges_to_unknown_items_as_false(
    shops: Store, to: str, settings: GraphSettings
) -> None:
    GraphStage(shops, "right", settings).run()
    _doctor(graph_table(shops, "right"), lambda rows: _with_pair(rows, "r1", to, 1.0))

    result = audit_graph(shops, "right", sample=100)

    assert (result.missing, result.false) == (0, 1)
    assert result.examples == (f"false: r1 {to}",)


def test_audit_reports_an_edge_outside_the_k_nearest_as_false(shops: Store) -> None:
    GraphStage(shops, "right", GRAPHS[2]).run()
    rows = graph_table(shops, "right").read(_newest(graph_table(shops, "right")))
    furthest = rows.filter(pl.col("src_id") == "r1")["dst_id"][-1]
    GraphStage(shops, "right", GRAPHS[0]).run()
    _doctor(graph_table(shops, "right"), lambda rows: _with_pair(rows, "r1", furthest, 0.9))

    assert audit_graph(shops, "right", sample=100).examples == (f"false: r1 {furthest}",)


def test_audit_reports_the_missing_kth_edge(shops: Store) -> None:
    GraphStage(shops, "right", GRAPHS[0]).run()
    last = (pl.col("src_id") == "r1") & (pl.col("rank") == 2)
    _doctor(graph_table(shops, "right"), lambda rows: rows.filter(~last))

    assert audit_graph(shops, "right", sample=100).missing == 1


def test_audit_samples_the_given_number_of_items_by_seed(
    shops: Store,
) -> None:
    _match(shops, MODES[0])
    _doctor(match_table(shops, "pair"), lambda rows: rows.filter(pl.col("left_id") != "l5"))

    audits = [audit_matches(shops, "pair", sample=4, seed=seed) for seed in range(12)]

    assert {audit.sampled for audit in audits} == {4}
    assert {audit.missing for audit in audits} == {0, 1}
    again = [audit_matches(shops, "pair", sample=4, seed=seed) for seed in range(12)]
    assert again == audits


def test_audit_counts_all_errors_and_lists_a_few_examples(shops: Store) -> None:
    _match(shops, MODES[0])
    true = _newest(match_table(shops, "pair"))
    _doctor(match_table(shops, "pair"), lambda rows: rows.head(0))

    result = audit_matches(shops, "pair", sample=100)

    assert result.missing == true.rows > 5
    assert len(result.examples) == 5


@pytest.mark.parametrize("settings", MODES, ids=str)
@pytest.mark.parametrize(("left", "right"), [({}, RIGHT), (LEFT, {}), ({}, {})])
def test_audit_passes_empty_catalogs(
    store: Store, settings: MatchSettings, left: Images, right: Images
) -> None:
    indexed(store, "left", left)
    indexed(store, "right", right)
    _match(store, settings)

    assert audit_matches(store, "pair", sample=10) == Audit(len(left), 0, 0, ())


def test_audit_passes_an_empty_graph(store: Store) -> None:
    indexed(store, "shop", {})
    GraphStage(store, "shop", GraphSettings()).run()

    assert audit_graph(store, "shop", sample=10) == Audit(0, 0, 0, ())


def test_audit_without_a_version_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="matches/pair has no version yet; materialize it first"):
        audit_matches(store, "pair", sample=1)
    with pytest.raises(StoreError, match="shop/similarity_graph has no version yet"):
        audit_graph(store, "shop", sample=1)


def test_audit_uses_the_items_the_table_was_computed_from(shops: Store) -> None:
    _match(shops, MODES[0])
    indexed(shops, "left", {"l0": tiny(7), "new": tiny(1)})
    indexed(shops, "right", {"t": tiny(60)})

    assert audit_matches(shops, "pair", sample=100) == Audit(8, 0, 0, ())


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_audit_is_the_same_for_any_batch_size(
    shops: Store, monkeypatch: pytest.MonkeyPatch, settings: MatchSettings
) -> None:
    _match(shops, settings)
    _doctor(match_table(shops, "pair"), lambda rows: _with_pair(rows, *UNRELATED))
    GraphStage(shops, "right", GRAPHS[0]).run()
    _doctor(graph_table(shops, "right"), lambda rows: rows.filter(pl.col("src_id") != "s5"))
    audits = []
    for scores in (1 << 24, 40, 1):
        monkeypatch.setattr(audit_scores, "_MAX_SCORES", scores)

        audits.append(
            (audit_matches(shops, "pair", sample=9), audit_graph(shops, "right", sample=9))
        )

    assert audits[0] == audits[1] == audits[2]
    assert not audits[0][0].passed


def test_audit_limits_the_scores_in_memory(shops: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _match(shops, MODES[3])
    monkeypatch.setattr(audit_scores, "_MAX_SCORES", 30)
    sizes = []
    scored = audit_scores.scores

    def counted(left: ScoredItems, right: ScoredItems, settings: Mapping[str, Any]) -> Doubles:
        scores = scored(left, right, settings)
        sizes.append(scores.size)
        return scores

    monkeypatch.setattr(audit, "scores", counted)
    audit_matches(shops, "pair", sample=100)

    # An item of a batch has up to two partners: the committed one and the best one.
    assert len(sizes) > 2
    assert max(sizes) <= 2 * 30


def test_audit_of_damaged_vectors_is_an_error(shops: Store) -> None:
    _match(shops, MODES[0])
    table = VectorTable(shops, "left", fingerprint(THUMBNAIL)).table
    flip_bit(shops, table, _newest(table).files_with_role()[0])

    with pytest.raises(StoreError, match="materialize left/embeddings again"):
        audit_matches(shops, "pair", sample=1)


# ---- drift ------------------------------------------------------------------------------

SIMILARITIES = st.lists(st.sampled_from([0.8, 0.85, 0.9, 0.95, 1.0]), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [], 0.0),
        ([0.9], [], 1.0),
        ([], [0.9], 1.0),
        ([0.8, 0.9], [0.8, 0.9], 0.0),
        ([0.8, 0.9], [0.95, 1.0], 1.0),
        ([0.8, 0.9, 0.9, 0.9], [0.8, 0.8, 0.9, 0.9], 0.25),
    ],
)
def test_drift_of_known_similarities(
    before: list[float], after: list[float], expected: float
) -> None:
    series = (pl.Series(values, dtype=pl.Float64) for values in (before, after))
    assert drift(*series) == expected


@given(SIMILARITIES, SIMILARITIES)
def test_drift_is_the_largest_difference_of_the_cumulative_distributions(
    before: list[float], after: list[float]
) -> None:
    def share(values: list[float], limit: float) -> float:
        return sum(value <= limit for value in values) / len(values)

    expected = max(abs(share(before, limit) - share(after, limit)) for limit in {*before, *after})
    distance = drift(pl.Series(before), pl.Series(after))

    assert distance == pytest.approx(expected)
    assert drift(pl.Series(after), pl.Series(before)) == distance
    assert drift(pl.Series(before * 3), pl.Series(after)) == pytest.approx(distance)


def _match(store: Store, settings: MatchSettings, name: str = "pair") -> MatchReport:
    return MatchStage(store, name, settings, left="left", right="right").run()


def _newest(table: Table) -> Commit:
    commit = table.latest()
    assert commit is not None
    return commit


def _doctor(table: Table, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Commit wrong rows instead of the true ones, as a faulty stage would."""
    true = _newest(table)
    rows = table.write_rows(change(table.read(true)))
    others = [file for file in true.files if file.role != ROWS]
    table.commit(lambda base: PendingCommit([rows, *others], true.inputs, true.properties))


def _with_pair(rows: pl.DataFrame, one: str, other: str, similarity: float) -> pl.DataFrame:
    """The rows and, after them, one more pair or edge."""
    source, target = rows.columns[:2]
    added = pl.DataFrame({source: [one], target: [other], "similarity": [similarity]})
    return pl.concat([rows, added], how="diagonal")


# ---- items with several images ----------------------------------------------------------

SEVERAL = {
    "a": [tiny(1), tiny(7), tiny(2)],
    "b": [tiny(20, like=2)],
    "c": [tiny(3), tiny(7)],
    "d": [tiny(7), tiny(4), tiny(4)],
}
COMPARED = [
    MatchSettings(mode="all", threshold=0.3),
    MatchSettings(mode="best", threshold=0.3, compare="first"),
    MatchSettings(mode="mutual", threshold=0.1, compare="mean_best"),
    MatchSettings(mode="top_k", k=2, threshold=0.1, compare="mean_best"),
    MatchSettings(mode="best", threshold=0.3, max_shared=2),
]


@pytest.mark.parametrize("settings", COMPARED, ids=str)
def test_audit_passes_results_of_items_with_several_images(
    store: Store, settings: MatchSettings
) -> None:
    indexed(store, "left", SEVERAL)
    indexed(store, "right", {f"r{item}": images[::-1] for item, images in SEVERAL.items()})
    _match(store, settings)
    graph = GraphSettings(k=2, threshold=0.1, compare=settings.compare, max_shared=2)
    GraphStage(store, "left", graph).run()

    assert audit_matches(store, "pair", sample=100).passed
    assert audit_graph(store, "left", sample=100).passed


@pytest.mark.parametrize(
    ("change", "example"),
    [
        ({"similarity": pl.col("similarity") - 0.01}, "similarity: a ra"),
        ({"left_sha256": pl.lit(sha256_of(tiny(1)))}, "images: a ra"),
    ],
)
def test_audit_reports_another_similarity_and_images_that_are_not_the_best(
    store: Store, change: dict[str, pl.Expr], example: str
) -> None:
    indexed(store, "left", {"a": [tiny(1), tiny(2)]})
    indexed(store, "right", {"ra": [tiny(5), tiny(2)]})
    _match(store, MODES[0])
    _doctor(match_table(store, "pair"), lambda rows: rows.with_columns(**change))

    assert audit_matches(store, "pair", sample=100).examples == (example,)


def test_audit_reports_a_placeholder_that_is_compared(store: Store) -> None:
    indexed(store, "left", {f"l{n}": tiny(1) for n in range(3)})
    indexed(store, "right", {"r": tiny(1)})
    _match(store, MatchSettings(threshold=0.5))
    table = match_table(store, "pair")
    commit = _newest(table)
    table.commit(
        lambda _: PendingCommit(commit.files, commit.inputs, {**commit.properties, "max_shared": 2})
    )

    result = audit_matches(store, "pair", sample=100)

    assert (result.missing, result.false) == (0, 3)
    assert result.examples == ("shared: l0", "shared: l1", "shared: l2")
