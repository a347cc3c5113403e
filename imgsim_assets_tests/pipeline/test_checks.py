"""The invariants, on tables that are committed without Dagster."""

from __future__ import annotations

import polars as pl
import pytest

from imgsim_assets.pipeline.check_result import CheckResult
from imgsim_assets.pipeline.checks import (
    agrees_with_brute_force,
    at_or_above_threshold,
    ids_match_embeddings,
    ids_unique,
    missing_and_stale,
    no_rejects,
    similarity_drift,
    vectors_normalized,
)
from imgsim_assets.pipeline.group_checks import groups_coherent, one_canonical_per_group
from imgsim_assets.pipeline.repair import repair
from imgsim_assets.pipeline.settings import CheckSettings
from imgsim_assets.similarity.audit import Audit
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.graph import GraphStage, graph_table
from imgsim_assets.similarity.group_tables import groups_table
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, tiny, turned
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.tables import latest_commit


@pytest.fixture
def store(store: Store) -> Store:
    indexed(store, "shop", {f"i{seed}": tiny(seed) for seed in range(6)})
    return store


def _drift_of(store: Store, settings: GraphSettings) -> CheckResult:
    report = GraphStage(store, "shop", settings).run()
    table = graph_table(store, "shop")
    return similarity_drift(table, table.at(report.version), maximum=0.0)


def test_other_images_are_drift(store: Store) -> None:
    settings = GraphSettings(k=2)
    first = _drift_of(store, settings)
    indexed(store, "shop", {f"i{seed}": tiny(seed) for seed in range(20, 26)})
    second = _drift_of(store, settings)

    assert first.passed
    assert first.metadata["compared_with"] == "nothing"
    assert not second.passed
    assert second.metadata["compared_with"] == "version 1"


def test_a_version_that_replaced_a_damaged_one_has_nothing_to_be_compared_with(
    store: Store,
) -> None:
    settings = GraphSettings(k=2)
    _drift_of(store, settings)
    table = graph_table(store, "shop")
    flip_bit(store, table, latest_commit(table).files_with_role()[0])
    repair(store)
    damaged = latest_commit(table)

    for _ in range(2):
        check = _drift_of(store, settings)
        assert check.passed
        assert check.metadata["compared_with"] == f"nothing: version {damaged.version} is damaged"
    assert latest_commit(table).version > damaged.version


def test_changed_settings_are_not_drift_however_often_checked(store: Store) -> None:
    _drift_of(store, GraphSettings(k=1))

    for _ in range(2):
        check = _drift_of(store, GraphSettings(k=5))
        assert check.passed
        assert check.metadata["compared_with"] == "nothing: settings changed"


def test_another_encoder_is_not_drift(store: Store) -> None:
    _drift_of(store, GraphSettings(k=2))
    other = THUMBNAIL.model_copy(update={"version": "2"})
    indexed(store, "shop", {f"i{seed}": tiny(seed) for seed in range(20, 26)}, other)

    assert _drift_of(store, GraphSettings(k=2)).passed


def test_passed_checks_have_no_problem(store: Store) -> None:
    GroupStage(store, "shop", GroupSettings(threshold=-1)).run()
    table = groups_table(store, "shop")
    commit = table.latest()
    assert commit is not None
    groups = table.read(commit)
    audit = Audit(sampled=1, missing=0, false=0, examples=())

    for result in (
        ids_unique(pl.DataFrame({"id": ["a", "b"]})),
        vectors_normalized(store, "shop"),
        ids_match_embeddings(store, "shop"),
        agrees_with_brute_force(audit),
        at_or_above_threshold(pl.DataFrame({"similarity": [0.5], "verdict": [None]}), 0.5),
        # As tables of earlier versions are.
        at_or_above_threshold(pl.DataFrame({"similarity": [0.5]}), 0.5),
        one_canonical_per_group(groups),
    ):
        assert (result.passed, result.problem) == (True, "")
    twice = one_canonical_per_group(pl.concat([groups, groups]))
    assert not twice.passed
    assert twice.problem == (
        "1 group without two items and one canonical item and 6 items in two groups; materialize "
        "it again"
    )


def test_rows_with_equal_nulls_are_neither_missing_nor_stale() -> None:
    rows = pl.DataFrame({"id": ["a", "b"], "sha256": ["1", None]})

    assert missing_and_stale(rows, rows.reverse()) == (0, 0)
    assert missing_and_stale(rows.head(1), rows) == (1, 0)
    assert missing_and_stale(rows, rows.head(1)) == (0, 1)


@pytest.mark.parametrize(
    ("angles", "limit", "problem"),
    [
        # A chain, whose ends have a cosine of 0.5.
        ([0, 20, 40, 60], {"max_similarity_gap": 0.5}, "far below the threshold"),
        # Two families of three, with one link between them.
        ([0, 1, 2, 20, 21, 22], {"max_bridged_items": 3}, "a single link joins two parts"),
        ([n / 10 for n in range(12)], {"max_group_fraction": 0.7}, "too many of the items"),
    ],
)
def test_groups_that_probably_join_different_images_fail_the_check(
    store: Store, angles: list[float], limit: dict[str, float], problem: str
) -> None:
    others = {f"o{seed}": tiny(seed) for seed in range(6)}
    indexed(store, "shop", {**others, **{f"t{n:02}": turned(a) for n, a in enumerate(angles)}})
    GroupStage(store, "shop", GroupSettings(threshold=0.9 if angles[-1] == 60 else 0.948)).run()
    table = groups_table(store, "shop")
    commit = table.latest()
    assert commit is not None

    check = groups_coherent(table, commit, CheckSettings())
    lenient = groups_coherent(table, commit, CheckSettings(**limit))

    assert (check.passed, check.metadata["suspicious"]) == (False, 1)
    assert f"of {len(angles)} items: " in check.problem
    assert problem in check.problem
    assert lenient.passed


def test_groups_of_copies_pass_the_check(store: Store) -> None:
    indexed(store, "shop", {f"t{n}": turned(n) for n in range(5)})
    GroupStage(store, "shop", GroupSettings(threshold=0.99)).run()
    table = groups_table(store, "shop")
    commit = table.latest()
    assert commit is not None

    assert commit.rows == 5
    assert groups_coherent(table, commit, CheckSettings()).passed


@pytest.mark.parametrize(
    ("rows", "images", "problem"),
    [
        (0, 0, ""),
        (1, 0, "1 rejected row; 'imgsim failures shop' shows them and why"),
        (3, 2, "3 rejected rows and 2 rejected images; 'imgsim failures shop' shows them and why"),
    ],
)
def test_rejected_rows_and_images_are_named_apart(rows: int, images: int, problem: str) -> None:
    result = no_rejects("shop", rows, images)

    assert (result.passed, result.problem) == (not problem, problem)
    assert result.metadata == {"rejected": rows, "rejected_images": images}
