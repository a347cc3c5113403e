"""Evidence in match tables, graphs and groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from imgsim_assets.similarity.audit import audit_graph, audit_matches
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.matches import MatchReport, MatchStage
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings, MatchSettings
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed
from imgsim_assets_tests.support.scenes import jpeg, painted, png, scene

# Everything is a candidate, so that only evidence decides.
EVERYTHING: dict[str, Any] = {"compute": True, "min_similarity": -1}
FILES = {
    "a": png(scene(1)),
    "a jpeg": jpeg(scene(1)),
    "a mirrored": jpeg(ImageOps.mirror(scene(1))),
    "a bytes": png(scene(1)) + b"x",
    "a turned": jpeg(scene(1).transpose(Image.Transpose.ROTATE_90)),
    "b": png(scene(2)),
    "b jpeg": jpeg(scene(2)),
    "c": png(scene(3)),
    # One product in two colors.
    "red": png(painted(scene(1), "firebrick")),
    "red jpeg": jpeg(painted(scene(1), "firebrick")),
    "blue": png(painted(scene(1), "navy")),
}
Images = Mapping[str, str]


def fill(store: Store, catalogs: Mapping[str, Images]) -> None:
    for name, images in catalogs.items():
        indexed(store, name, {item: FILES[file] for item, file in images.items()})


def match(
    store: Store, evidence: Mapping[str, Any] = EVERYTHING, **values: Any
) -> tuple[MatchReport, pl.DataFrame]:
    wanted = MatchSettings.model_validate({"evidence": evidence, **values})
    encoders = {"left": THUMBNAIL, "right": THUMBNAIL}
    stage = MatchStage(store, "left__right", wanted, left="left", right="right", encoders=encoders)
    report = stage.run()
    return report, stage.table.read(stage.table.at(report.version))


def test_orientations_make_turned_copies_candidates_whose_number_stays_limited(
    store: Store,
) -> None:
    fill(store, {"left": {"1": "a"}, "right": {"x": "a turned", "y": "b", "z": "c"}})
    evidence = {"compute": True, "min_similarity": 0.9}

    _, upright = match(store, evidence)
    report, rows = match(store, evidence, orientations=True)
    limited, _ = match(store, {**EVERYTHING, "max_candidates": 2}, orientations=True, mode="mutual")

    assert upright.height == 0
    assert rows.select("right_id", "evidence", "orientation", "transform").rows() == [
        ("x", "aligned", "rotated_90", "rotation")
    ]
    assert report.evidence is not None
    assert report.evidence.compared == 1
    # Two candidates of the left image, and its one of each right image.
    assert limited.evidence is not None
    assert limited.evidence.compared <= 3


def test_matches_have_their_tier_inliers_and_transform(store: Store) -> None:
    fill(
        store,
        {
            "left": {"1": "a", "2": "b"},
            "right": {"w": "a", "x": "a bytes", "y": "a mirrored", "z": "b jpeg", "other": "c"},
        },
    )

    report, rows = match(store, mode="all")

    found = {
        (row["left_id"], row["right_id"]): (row["evidence"], row["transform"])
        for row in rows.iter_rows(named=True)
    }
    assert found == {
        ("1", "w"): ("same_bytes", None),
        ("1", "x"): ("same_pixels", None),
        ("1", "y"): ("aligned", "flip"),
        ("2", "z"): ("aligned", "identity"),
    }
    assert rows["inliers"].is_null().to_list() == [
        tier != "aligned" for tier in rows["evidence"].to_list()
    ]
    assert report.evidence is not None
    assert report.evidence.tiers == {
        "same_bytes": 1, "same_pixels": 1, "aligned": 2, "similar": 0,
    }  # fmt: skip
    assert audit_matches(store, "left__right", sample=10).passed


def test_without_evidence_there_are_no_columns_and_no_features(store: Store) -> None:
    fill(store, {"left": {"1": "a"}, "right": {"w": "a jpeg"}})

    report, rows = match(store, {"compute": False}, threshold=0.9)

    assert report.evidence is None
    assert not {"evidence", "inliers", "transform"} & {*rows.columns}
    assert not [name for name in store.table_names() if name.startswith("image_features")]


@pytest.mark.parametrize(
    ("require", "matched"),
    [
        ("same_bytes", ["w"]),
        ("same_pixels", ["w", "x"]),
        ("aligned", ["w", "x", "y"]),
        ("similar", ["other", "w", "x", "y"]),
    ],
)
def test_require_is_the_weakest_tier_that_counts(
    store: Store, require: str, matched: list[str]
) -> None:
    right = {"w": "a", "x": "a bytes", "y": "a mirrored", "other": "c"}
    fill(store, {"left": {"1": "a"}, "right": right})

    threshold = {"threshold": -1} if require == "similar" else {}
    _, rows = match(store, {**EVERYTHING, "require": require}, mode="all", **threshold)

    assert sorted(rows["right_id"]) == matched


def test_similar_counts_from_the_threshold_and_aligned_from_the_floor(store: Store) -> None:
    fill(store, {"left": {"1": "a"}, "right": {"y": "a mirrored", "other": "c"}})

    report, rows = match(store, {**EVERYTHING, "require": "similar"}, threshold=1, mode="all")

    assert rows["right_id"].to_list() == ["y"]
    assert report.evidence is not None
    assert report.evidence.similar_from == 1


def test_pairs_below_the_floor_are_no_candidates(store: Store) -> None:
    fill(store, {"left": {"1": "a"}, "right": {"w": "a", "y": "a mirrored"}})

    report, rows = match(store, {**EVERYTHING, "min_similarity": 0.9999}, mode="all")

    assert rows["right_id"].to_list() == ["w"]
    assert report.threshold == 0.9999


@pytest.mark.parametrize("mode", ["all", "best", "mutual", "one_to_one"])
def test_only_changed_images_are_compared_again(store: Store, mode: str) -> None:
    fill(store, {"left": {"1": "a", "2": "b"}, "right": {"w": "a jpeg", "z": "b jpeg"}})
    match(store, mode=mode)
    fill(store, {"right": {"w": "a jpeg", "z": "b jpeg", "y": "a mirrored"}})

    report, rows = match(store, mode=mode)

    assert report.evidence is not None
    assert (report.evidence.compared, report.evidence.images) == (2, 1)
    again = match(store, mode=mode)[0]
    assert again.version == report.version
    assert again.evidence is not None
    assert again.evidence.compared == 0
    assert set(rows["evidence"]) == {"aligned"}


def test_another_requirement_compares_nothing_again(store: Store) -> None:
    fill(store, {"left": {"1": "a"}, "right": {"w": "a jpeg", "z": "b"}})
    match(store)

    report, rows = match(store, {**EVERYTHING, "require": "same_pixels"})

    assert rows.is_empty()
    assert report.evidence is not None
    assert report.evidence.compared == 0


def test_edges_of_a_graph_have_evidence(store: Store) -> None:
    fill(store, {"shop": {"1": "a", "2": "a mirrored", "3": "b", "4": "b jpeg", "5": "c"}})
    wanted = GraphSettings(k=3, evidence=EvidenceSettings(**EVERYTHING))
    stage = GraphStage(store, "shop", wanted)

    report = stage.run()

    edges = stage.table.read(stage.table.at(report.version))
    assert edges.select("src_id", "dst_id", "transform").rows() == [
        ("1", "2", "flip"), ("2", "1", "flip"), ("3", "4", "identity"), ("4", "3", "identity"),
    ]  # fmt: skip
    assert audit_graph(store, "shop", sample=5).passed


def test_duplicate_groups_are_linked_by_evidence(store: Store) -> None:
    fill(store, {"shop": {"1": "a", "2": "a mirrored", "3": "c", "4": "b", "5": "b jpeg"}})
    by_similarity = GroupSettings(threshold=-1)
    by_evidence = GroupSettings(evidence=EvidenceSettings(**EVERYTHING))

    groups = [
        stage.table.read(stage.table.at(stage.run().version))
        for stage in (
            GroupStage(store, "shop", by_similarity, variant="similarity"),
            GroupStage(store, "shop", by_evidence),
        )
    ]

    assert groups[0]["group_id"].n_unique() == 1
    assert sorted(groups[1].group_by("group_id").agg(pl.col("id").sort())["id"].to_list()) == [
        ["1", "2"], ["4", "5"],
    ]  # fmt: skip


@pytest.mark.parametrize(("strict", "grouped"), [(None, 2), (True, 2), (False, 3)])
def test_look_alikes_that_align_are_in_no_group_by_default(
    store: Store, strict: bool | None, grouped: int
) -> None:
    fill(store, {"shop": {"1": "red", "2": "blue", "3": "red jpeg", "4": "c"}})
    wanted = GroupSettings(evidence=EvidenceSettings(**EVERYTHING, strict=strict))

    report = GroupStage(store, "shop", wanted).run()

    assert (report.groups, report.grouped) == (1, grouped)


@pytest.mark.parametrize(("strict", "matched"), [(None, ["w", "y"]), (True, ["w"])])
def test_look_alikes_that_align_match_unless_strict(
    store: Store, strict: bool | None, matched: list[str]
) -> None:
    fill(store, {"left": {"1": "red"}, "right": {"w": "red jpeg", "y": "blue", "z": "c"}})

    _, rows = match(store, {**EVERYTHING, "strict": strict}, mode="all")
    _, similar = match(
        store, {**EVERYTHING, "strict": strict, "require": "similar"}, mode="all", threshold=1
    )

    assert sorted(rows["right_id"]) == matched
    assert sorted(similar["right_id"]) == matched


def test_another_variant_compares_no_pair_again(store: Store) -> None:
    fill(store, {"shop": {"1": "a", "2": "a jpeg", "3": "c"}})
    wanted = EvidenceSettings(**EVERYTHING)
    graph = GraphStage(store, "shop", GraphSettings(evidence=wanted)).run()
    other = GraphStage(store, "shop", GraphSettings(k=1, evidence=wanted), variant="x").run()
    groups = GroupStage(store, "shop", GroupSettings(evidence=wanted)).run()

    compared = [each.evidence.compared for each in (graph, other, groups) if each.evidence]
    assert compared == [3, 0, 0]


def test_garbage_collection_deletes_the_features_of_deleted_images(store: Store) -> None:
    fill(store, {"left": {"1": "a"}, "right": {"w": "a jpeg", "z": "b"}})
    match(store)
    fill(store, {"left": {"1": "a"}, "right": {"w": "a jpeg"}})
    match(store)
    policy = RetentionPolicy(retain_last=1, min_age_hours=1)

    collect_garbage(store, policy, now=4e9)

    (name,) = [name for name in store.table_names() if name.startswith("image_features")]
    table = store.table(name)
    commit = table.latest()
    assert commit is not None
    assert commit.rows == 2
    fill(store, {"right": {"w": "a jpeg", "z": "b", "y": "a mirrored"}})
    assert match(store, mode="all")[1]["right_id"].to_list() == ["w", "y"]


catalogs = st.dictionaries(st.sampled_from("pqrst"), st.sampled_from(sorted(FILES)), max_size=5)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    history=st.lists(st.tuples(catalogs, catalogs), min_size=2, max_size=3),
    mode=st.sampled_from(["all", "best", "mutual", "one_to_one"]),
    max_candidates=st.sampled_from([1, 2, 30]),
    orientations=st.booleans(),
)
def test_incremental_equals_rebuild_whatever_the_history(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[tuple[Images, Images]],
    mode: str,
    max_candidates: int,
    orientations: bool,
) -> None:
    evidence = {**EVERYTHING, "max_candidates": max_candidates}
    stores = [Store.open(tmp_path_factory.mktemp("store") / name) for name in ("kept", "new")]
    for left, right in history:
        fill(stores[0], {"left": left or {"p": "c"}, "right": right or {"p": "c"}})
        _, incremental = match(stores[0], evidence, mode=mode, orientations=orientations)
    fill(stores[1], {"left": left or {"p": "c"}, "right": right or {"p": "c"}})

    _, rebuilt = match(stores[1], evidence, mode=mode, orientations=orientations)

    assert incremental.equals(rebuilt)
