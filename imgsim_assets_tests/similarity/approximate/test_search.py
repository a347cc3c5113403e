from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.pipeline.checks import result_recall
from imgsim_assets.pipeline.verify import verify
from imgsim_assets.similarity.approximate import estimate, search, training
from imgsim_assets.similarity.approximate.lists import InvertedLists
from imgsim_assets.similarity.approximate.recall import Recall
from imgsim_assets.similarity.approximate.search import CENTROIDS, recall_of
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings, MatchSettings, Mode
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.catalogs import indexed
from imgsim_assets_tests.support.histories import POOL, history

APPROXIMATE = {"method": "approximate", "min_recall": 0.6}
MODES: dict[Mode, MatchSettings] = {
    "all": MatchSettings(mode="all", threshold=0.3, **APPROXIMATE),
    "best": MatchSettings(mode="best", threshold=-1, **APPROXIMATE),
    "top_k": MatchSettings(mode="top_k", k=2, threshold=0.1, compare="mean_best", **APPROXIMATE),
    "mutual": MatchSettings(mode="mutual", threshold=-1, **APPROXIMATE),
    "one_to_one": MatchSettings(mode="one_to_one", threshold=0.3, **APPROXIMATE),
}
GRAPH = GraphSettings(k=2, **APPROXIMATE)
GROUPS = GroupSettings(threshold=0.6, **APPROXIMATE)
SIDES = ("left", "right")
Images = Mapping[str, bytes]


@pytest.fixture(autouse=True)
def _many_small_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few rows have as many lists as many rows would."""
    monkeypatch.setattr(training, "_MIN_ROWS_PER_LIST", 2)


def _stages(store: Store) -> dict[str, MatchStage | GraphStage | GroupStage]:
    stages: dict[str, MatchStage | GraphStage | GroupStage] = {
        mode: MatchStage(store, mode, declared, left="left", right="right")
        for mode, declared in MODES.items()
    }
    stages["graph"] = GraphStage(store, "left", GRAPH)
    stages["groups"] = GroupStage(store, "left", GROUPS)
    return stages


def _index(store: Store, images: Mapping[str, Images]) -> None:
    for side in SIDES:
        indexed(store, side, images[side])


def _commit(table: Table) -> Commit:
    commit = table.latest()
    assert commit is not None
    return commit


def _catalog(count: int, prefix: str = "i") -> Images:
    usable = POOL[:-1]
    return {f"{prefix}{number:02d}": usable[number % len(usable)] for number in range(count)}


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))]
)
def test_updated_results_equal_those_of_a_rebuild_with_the_same_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(search, "_MAX_GROWTH", 1000)
    store = Store.open(tmp_path / "store")
    states = [history(seed, 4, side) for side in SIDES]
    # The first state has enough items for several lists.
    for step, (left, right) in enumerate(zip(*states, strict=True)):
        more = {"left": _catalog(20, "l"), "right": _catalog(18, "r")} if step == 0 else {}
        images = {
            "left": {**left, **more.get("left", {})},
            "right": {**right, **more.get("right", {})},
        }
        _index(store, images)
        for stage in _stages(store).values():
            stage.run()
    fresh = Store.open(tmp_path / "fresh")
    _index(fresh, images)

    for name, stage in _stages(fresh).items():
        updated = _stages(store)[name].table
        kept = _kept_lists(updated)
        with monkeypatch.context() as patch:
            patch.setattr(search, "train_for", lambda *_, kept=kept: kept.pop(0))
            stage.run()

        assert updated.read(_commit(updated)).equals(stage.table.read(_commit(stage.table))), name
        assert recall_of(_commit(updated)) == recall_of(_commit(stage.table))


def _kept_lists(table: Table) -> list[InvertedLists]:
    """The lists of a result, in the order in which they are trained."""
    files = [file for file in _commit(table).files if "nprobe" in file.metadata]
    files.sort(key=lambda file: file.role == CENTROIDS)
    return [
        InvertedLists(table.read_file(file)["centroid"].to_numpy(), file.metadata["nprobe"])
        for file in files
    ]


def test_similarities_equal_exact_ones_and_nothing_changed_commits_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    _index(store, {"left": _catalog(20), "right": _catalog(18)})
    exact = MatchStage(
        store, "exact", MatchSettings(mode="all", threshold=0.3), left="left", right="right"
    )
    exact.run()
    pairs = exact.table.read(_commit(exact.table))

    for name, stage in _stages(store).items():
        report = stage.run()
        assert report.changed
        assert report.recall is not None
        assert report.recall.value is not None
        assert report.recall.value >= 0.6
        assert not stage.run().changed
        if name in MODES:
            found = stage.table.read(_commit(stage.table))
            assert found.height
            if name in ("all", "one_to_one"):
                keys = ["left_id", "right_id", "similarity"]
                assert found.join(pairs, on=keys, how="semi").height == found.height
    assert verify(store).problems == []


def test_another_method_or_recall_computes_the_result_again(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    _index(store, {"left": _catalog(20), "right": {}})
    for settings in (
        GraphSettings(k=2),
        GRAPH,
        GraphSettings(k=2, method="approximate", min_recall=0.9),
        GraphSettings(k=2),
    ):
        report = GraphStage(store, "left", settings).run()

        assert report.changed
        assert not report.incremental
        assert (report.recall is None) == (settings.method == "exact")


def test_a_large_exact_computation_tells_its_time_and_no_other_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "LARGE_JOIN", 400)
    monkeypatch.setattr(estimate, "_NUMBERS_PER_SECOND", 100)
    store = Store.open(tmp_path)
    expected = []
    for settings, count in ((GraphSettings(k=2), 19), (GraphSettings(k=2), 20), (GRAPH, 20)):
        _index(store, {"left": _catalog(count), "right": {}})
        expected.append(GraphStage(store, "left", settings).run().exact_seconds)
    logged: list[str] = []
    seconds = GraphStage(store, "left", GraphSettings(k=3), log=logged.append).run().exact_seconds

    assert expected == [None, None, None]  # small, an update, approximate
    assert seconds is not None
    assert seconds > 60
    (warning,) = (line for line in logged if line.startswith("warning"))
    assert "comparing 400 pairs of images exactly takes about" in warning
    assert "'method: approximate'" in warning


def test_lists_are_trained_again_when_the_catalog_has_doubled(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    trained = []
    for count in (9, 12, 17, 19):
        _index(store, {"left": _catalog(count), "right": {}})
        report = GraphStage(store, "left", GRAPH).run()
        file = _commit(GraphStage(store, "left", GRAPH).table).file_with_role(CENTROIDS)
        assert file is not None
        trained.append((file.metadata["left_rows"], report.incremental))

    assert trained == [(9, False), (9, True), (9, True), (19, False)]


def test_a_missed_recall_fails_the_check_and_the_next_run_trains_lists_again(
    tmp_path: Path,
) -> None:
    store = Store.open(tmp_path)
    _index(store, {"left": _catalog(20), "right": {}})
    stage = GraphStage(store, "left", GRAPH)
    stage.run()
    _index(store, {"left": _catalog(21), "right": {}})
    assert stage.run().incremental
    assert result_recall(_commit(stage.table)).passed

    _record_recall(stage.table, Recall(21, 42, 3))

    missed = result_recall(_commit(stage.table))
    assert not missed.passed
    assert "3 of 42 exact pairs" in missed.problem
    assert [problem.location for problem in verify(store).problems] == ["left/similarity_graph"]
    report = stage.run()
    assert report.changed
    assert not report.incremental
    assert result_recall(_commit(stage.table)).passed


def test_the_recall_of_a_catalog_with_itself_leaves_out_pairs_of_an_item_with_itself(
    tmp_path: Path,
) -> None:
    store = Store.open(tmp_path)
    _index(store, {"left": _catalog(20), "right": _catalog(20)})
    pairs = []
    for right in SIDES:
        settings = MatchSettings(mode="top_k", k=2, threshold=-1, **APPROXIMATE)
        report = MatchStage(store, f"of_{right}", settings, left="left", right=right).run()
        assert report.recall is not None
        pairs.append(report.recall.pairs)
    edges = GraphStage(store, "left", GRAPH).run().recall

    assert edges is not None
    assert pairs[1] == edges.pairs == 40
    assert pairs[0] < pairs[1]


def test_a_recall_of_which_nothing_was_measurable_is_none_and_passes(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    _index(store, {"left": _catalog(5), "right": {}})
    settings = MatchSettings(threshold=-1, **APPROXIMATE)
    nothing_similar = GraphStage(store, "left", GraphSettings(k=2, threshold=1, **APPROXIMATE))
    nothing_compared = MatchStage(store, "pair", settings, left="left", right="right")

    for stage, sampled in ((nothing_similar, 5), (nothing_compared, 0)):
        report = stage.run()

        assert report.recall == Recall(sampled, 0, 0)
        assert report.recall.value is None
        check = result_recall(_commit(stage.table))
        assert check.passed
        assert check.metadata == {"recall": "not measured", "sampled": sampled, "pairs": 0}


def _record_recall(table: Table, recall: Recall) -> None:
    def change(newest: Commit | None) -> PendingCommit:
        assert newest is not None
        figures = {"rows": recall.rows, "pairs": recall.pairs, "found": recall.found}
        files = [
            file.with_metadata(recall=figures) if file.role == CENTROIDS else file
            for file in newest.files
        ]
        return PendingCommit(files, newest.inputs, newest.properties)

    table.commit(change)


@pytest.mark.parametrize(
    ("recall", "reaches"),
    [
        (Recall(1000, 10_000, 9_790), True),
        (Recall(1000, 10_000, 9_700), False),
        (Recall(1000, 5, 4), True),
        (Recall(1000, 0, 0), True),
    ],
)
def test_a_recall_is_missed_when_its_interval_is_below(recall: Recall, *, reaches: bool) -> None:
    assert recall.reaches(0.98) == reaches


def test_damaged_centroids_are_trained_again_and_the_log_says_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    images = _catalog(20)
    indexed(store, "left", images)
    table = _stages(store)["graph"].table
    messages: list[str] = []
    with use_compute(ComputeSettings(), messages.append):
        _stages(store)["graph"].run()
        assert not messages
        before = table.read(_commit(table))
        centroids = _commit(table).file_with_role(CENTROIDS)
        assert centroids is not None
        damaged = tmp_path / table.name / centroids.path
        damaged.write_bytes(damaged.read_bytes()[:-1])

        _stages(store)["graph"].run()

    assert len(messages) == 1
    assert messages[0].startswith("the inverted lists are trained again")
    assert str(damaged) in messages[0]
    assert table.read(_commit(table)).equals(before)
