from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import hypothesis
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import StoreError
from imgsim_assets.similarity import items
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.match_modes import one_to_one
from imgsim_assets.similarity.match_rows import SCHEMA
from imgsim_assets.similarity.matches import MatchReport, MatchStage, match_table
from imgsim_assets.similarity.materialized import LEFT_ITEMS
from imgsim_assets.similarity.settings import MatchSettings
from imgsim_assets.storage.commit import ROWS, Commit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import custom_encoders
from imgsim_assets_tests.support.catalogs import (
    THUMBNAIL,
    embed_shards,
    fill,
    indexed,
    repacked,
    sha256_of,
    tiny,
)
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.histories import Images, history, similarity, usable
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.vectors import Doubles

MODES = [
    MatchSettings(mode="all", threshold=0.3),
    MatchSettings(mode="best", threshold=0.3),
    MatchSettings(mode="best", threshold=-1),
    MatchSettings(mode="top_k", k=3, threshold=0.1),
    MatchSettings(mode="mutual", threshold=-1),
    MatchSettings(mode="mutual", threshold=0.7),
    MatchSettings(mode="one_to_one", threshold=0.3),
]
LEFT: Images = {
    "a": tiny(1),
    "b": tiny(2),
    "c": repacked(tiny(1)),
    "d": tiny(50, like=1),
    "e": tiny(51, like=3),
    "f": tiny(60),
    "gone": b"no image",
}
RIGHT: Images = {
    "p": repacked(tiny(1)),
    "q": tiny(1),
    "r": tiny(3),
    "s": tiny(52, like=2),
    "t": tiny(53, like=3),
    "u": tiny(61),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which LEFT and RIGHT are indexed."""
    store = Store.open(tmp_path_factory.mktemp("built"))
    indexed(store, "left", LEFT)
    indexed(store, "right", RIGHT)
    return Path(store.url)


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_matches_equal_brute_force_in_every_mode(shops: Store, settings: MatchSettings) -> None:
    report = _match(shops, settings)

    expected = _expected(shops, LEFT, RIGHT, settings)
    rows = _rows(shops)
    assert rows.schema == SCHEMA
    assert rows.select("left_id", "right_id", "rank").rows() == [row[:3] for row in expected]
    np.testing.assert_allclose(rows["similarity"], [row[3] for row in expected], atol=1e-15)
    for left_id, right_id, left_sha256, right_sha256 in rows.select(
        "left_id", "right_id", "left_sha256", "right_sha256"
    ).iter_rows():
        assert left_sha256 == sha256_of(LEFT[left_id])
        assert right_sha256 == sha256_of(RIGHT[right_id])
    assert report.matches == len(expected)
    assert report.left_matched == len({row[0] for row in expected})
    assert (report.left_items, report.right_items) == (6, 6)
    assert (report.version, report.changed, report.incremental) == (1, True, False)


@pytest.mark.parametrize("seed", range(2))
def test_incremental_matches_equal_a_rebuild_and_brute_force(
    store: Store, tmp_path: Path, seed: int
) -> None:
    lefts, rights = history(seed, 5, "s"), history(seed + 100, 5, "s")
    for step, (left, right) in enumerate(zip(lefts, rights, strict=True)):
        indexed(store, "left", left)
        # Usually only one of the catalogs changes.
        if step != 3:
            indexed(store, "right", right)
            current = right
        fresh = Store.open(tmp_path / f"fresh{step}")
        indexed(fresh, "left", left)
        indexed(fresh, "right", current)
        for settings in MODES:
            name = _name(settings)
            report = _match(store, settings, name)
            _match(fresh, settings, name)

            assert report.incremental == (step > 0)
            assert _rows(store, name).equals(_rows(fresh, name))
            pairs = _rows(store, name).select("left_id", "right_id", "rank").rows()
            expected = _expected(store, left, current, settings)
            assert pairs == [row[:3] for row in expected]


@pytest.mark.parametrize("settings", [MODES[0], MODES[4]], ids=str)
def test_items_that_move_between_the_catalogs_are_matched_again(
    shops: Store, settings: MatchSettings
) -> None:
    _match(shops, settings)
    indexed(shops, "left", RIGHT)
    indexed(shops, "right", LEFT)

    _match(shops, settings)

    pairs = _rows(shops).select("left_id", "right_id", "rank").rows()
    assert pairs == [row[:3] for row in _expected(shops, RIGHT, LEFT, settings)]


def test_mutual_matches_are_symmetric(shops: Store) -> None:
    settings = MatchSettings(mode="mutual", threshold=-1)

    _match(shops, settings, "there")
    MatchStage(shops, "back", settings, left="right", right="left").run()

    there = _rows(shops, "there").select("left_id", "right_id").rows()
    assert {(b, a) for a, b in _rows(shops, "back").select("left_id", "right_id").rows()} == set(
        there
    )
    assert len(there) >= 3


# ---- thresholds -------------------------------------------------------------------------


def test_threshold_is_inclusive_and_defaults_to_the_encoder(store: Store) -> None:
    hog_color = EncoderSettings(name="hog_color")
    for side in ("left", "right"):
        indexed(store, side, {f"{side}{seed}": jpeg(seed) for seed in range(3)}, hog_color)

    report = _match(store, MatchSettings(mode="all"))
    at_one = _match(store, MatchSettings(mode="all", threshold=1), "ones")

    assert report.threshold == 0.9
    assert _rows(store)["similarity"].to_list() == [1.0, 1.0, 1.0]
    assert (at_one.threshold, at_one.matches) == (1.0, 3)


def test_declared_threshold_of_the_encoder_is_recommended(shops: Store) -> None:
    report = _match(shops, MatchSettings())

    assert (report.threshold, report.threshold_source[:15]) == (0.845, "recommended for")


# ---- nothing new, other settings ---------------------------------------------------------


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_unchanged_inputs_commit_nothing(shops: Store, settings: MatchSettings) -> None:
    first = _match(shops, settings)

    second = _match(shops, settings)

    assert (second.changed, second.version) == (False, 1)
    assert second.data_version == first.data_version
    assert second.matches == first.matches
    assert match_table(shops, "pair").versions() == [1]


def test_new_input_version_with_the_same_items_commits_nothing(shops: Store) -> None:
    _match(shops, MODES[0])
    indexed(shops, "left", {**LEFT, "more": b"also no image"})

    report = _match(shops, MODES[0])

    assert not report.changed


@pytest.mark.parametrize(
    "other",
    [
        MatchSettings(mode="all", threshold=0.4),
        MatchSettings(mode="best", threshold=0.3),
        MatchSettings(mode="top_k", k=2, threshold=0.3),
    ],
    ids=str,
)
def test_other_settings_recompute_the_matches(shops: Store, other: MatchSettings) -> None:
    first = _match(shops, MODES[0])

    report = _match(shops, other)

    assert (report.incremental, report.changed, report.version) == (False, True, 2)
    assert report.data_version != first.data_version
    assert _rows(shops).select("left_id", "right_id", "rank").rows() == [
        row[:3] for row in _expected(shops, LEFT, RIGHT, other)
    ]


def test_new_encoder_recomputes_the_matches(store: Store) -> None:
    newer = THUMBNAIL.model_copy(update={"version": "2"})
    for encoder in (THUMBNAIL, newer):
        indexed(store, "left", LEFT, encoder)
        indexed(store, "right", RIGHT, encoder)
        report = _match(store, MODES[0])

    assert (report.incremental, report.version) == (False, 2)


def test_changed_image_of_an_id_is_matched_again(store: Store) -> None:
    indexed(store, "left", {"a": tiny(1)})
    indexed(store, "right", {"x": tiny(1), "y": tiny(2)})
    _match(store, MatchSettings())
    indexed(store, "left", {"a": tiny(2)})

    report = _match(store, MatchSettings())

    assert report.incremental
    assert _rows(store).select("left_id", "right_id", "left_sha256").rows() == [
        ("a", "y", sha256_of(tiny(2)))
    ]


def test_commit_records_inputs_and_settings(store: Store) -> None:
    indexed(store, "left", LEFT)
    for images in (RIGHT, {**RIGHT, "v": tiny(62)}):
        indexed(store, "right", images)

    report = _match(store, MODES[3])

    commit = match_table(store, "pair").latest()
    assert commit is not None
    assert commit.inputs == {"left/embeddings": 1, "right/index": 2}
    assert commit.properties["mode"] == "top_k"
    assert (commit.properties["k"], commit.properties["threshold"]) == (3, 0.1)
    assert commit.properties["fingerprint"] == report.fingerprint == fingerprint(THUMBNAIL)


@pytest.mark.parametrize(
    ("left", "right"),
    [({}, RIGHT), (LEFT, {}), ({"a": b"no image"}, {"b": b"no image"})],
    ids=["no left", "no right", "no images"],
)
@pytest.mark.parametrize("settings", MODES[2:5], ids=str)
def test_empty_catalog_has_no_matches(
    store: Store, left: Images, right: Images, settings: MatchSettings
) -> None:
    indexed(store, "left", left)
    indexed(store, "right", right)

    report = _match(store, settings)

    assert (report.matches, report.left_matched) == (0, 0)
    assert _rows(store).schema == SCHEMA


# ---- refusals ---------------------------------------------------------------------------


def test_missing_inputs_are_named(store: Store) -> None:
    with pytest.raises(StoreError, match="left/embeddings has no version yet"):
        _match(store, MatchSettings())
    indexed(store, "left", LEFT)
    embed_shards(store, "right", THUMBNAIL, fill(store, "right", RIGHT))
    with pytest.raises(StoreError, match="right/index has no version yet"):
        _match(store, MatchSettings())


def test_different_encoders_are_an_error_that_names_both_and_the_fix(store: Store) -> None:
    indexed(store, "left", LEFT)
    indexed(store, "right", {"a": jpeg(1)}, EncoderSettings(name="hog_color"))

    with pytest.raises(
        StoreError,
        match=r"left by .*thumbnail.* and right by hog_color; give both .* the same encoder",
    ):
        _match(store, MatchSettings())


def test_different_factories_are_an_error_that_names_both(store: Store) -> None:
    first = EncoderSettings(factory=THUMBNAIL.factory, version="1", batch_size=4)
    other = first.model_copy(update={"factory": f"{custom_encoders.__name__}:zero_or_nan_features"})
    indexed(store, "left", LEFT, first)
    indexed(store, "right", RIGHT, other)

    with pytest.raises(
        StoreError, match=r"left by .*:thumbnail.* and right by .*:zero_or_nan_features"
    ):
        _match(store, MatchSettings())


def test_index_of_an_earlier_encoder_is_an_error(shops: Store) -> None:
    newer = THUMBNAIL.model_copy(update={"version": "2"})
    for side, images in (("left", LEFT), ("right", RIGHT)):
        embed_shards(shops, side, newer, fill(shops, side, images))

    with pytest.raises(StoreError, match=r"cannot be compared.*materialize their embeddings and"):
        _match(shops, MatchSettings())


# ---- runs that overtake -----------------------------------------------------------------


@pytest.mark.parametrize("settings", [MODES[0], MODES[1]], ids=str)
def test_superseded_run_recomputes_with_the_newest_inputs(
    store: Store, monkeypatch: pytest.MonkeyPatch, settings: MatchSettings
) -> None:
    """One run reads a newer left and an older right catalog, the other run the reverse."""
    indexed(store, "left", LEFT)
    indexed(store, "right", RIGHT)
    _match(store, settings)
    fewer = {item: image for item, image in RIGHT.items() if item != "s"}
    more = {**LEFT, "n": tiny(1)}
    earlier, read = items.from_embeddings(store, "left"), items.from_index
    indexed(store, "left", more)

    def overtaken(store: Store, name: str) -> tuple[Commit, Items]:
        result = read(store, name)
        indexed(store, "right", fewer)
        monkeypatch.setattr(items, "from_index", read)
        with monkeypatch.context() as other:
            other.setattr(items, "from_embeddings", lambda *_: earlier)
            _match(store, settings)
        return result

    monkeypatch.setattr(items, "from_index", overtaken)
    report = _match(store, settings)

    newest = match_table(store, "pair").latest()
    assert newest is not None
    assert report.version == newest.version
    assert (report.left_items, report.right_items) == (len(usable(more)), len(usable(fewer)))
    assert report.matches == _rows(store).height
    assert _rows(store).select("left_id", "right_id", "rank").rows() == [
        row[:3] for row in _expected(store, more, fewer, settings)
    ]


# ---- damage -----------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [MODES[0], MODES[5]], ids=str)
@pytest.mark.parametrize("role", [ROWS, LEFT_ITEMS, "neighbor_lists", "right_neighbor_lists"])
def test_damaged_cached_files_cause_a_full_computation(
    shops: Store, role: str, settings: MatchSettings
) -> None:
    _match(shops, settings)
    _damage(shops, role)
    more = {**RIGHT, "v": tiny(54, like=2), "w": tiny(60)}
    indexed(shops, "right", more)

    _match(shops, settings)

    assert _rows(shops).select("left_id", "right_id", "rank").rows() == [
        row[:3] for row in _expected(shops, LEFT, more, settings)
    ]


def test_damaged_matches_are_recomputed_by_the_next_run(shops: Store) -> None:
    _match(shops, MODES[0])
    before = _rows(shops)
    _damage(shops, ROWS)

    _match(shops, MODES[0])

    assert _rows(shops).equals(before)


def test_matches_with_a_missing_file_are_recomputed_by_the_next_run(shops: Store) -> None:
    _match(shops, MODES[0])
    before = _rows(shops)
    _damage(shops, ROWS).unlink()

    report = _match(shops, MODES[0])

    assert report.changed
    assert _rows(shops).equals(before)


def test_deleted_and_recreated_catalog_is_matched_again(store: Store) -> None:
    indexed(store, "left", LEFT)
    for images in ({"q": tiny(1)}, RIGHT):
        indexed(store, "right", images)
    _match(store, MODES[0])
    shutil.rmtree(Path(store.url) / "right")
    indexed(store, "right", {"other": tiny(2)})

    report = _match(store, MODES[0])

    assert _rows(store)["right_id"].unique().to_list() == ["other"]
    assert report.matches == _rows(store).height


# ---- one_to_one -------------------------------------------------------------------------

EDGES = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.one_of(st.sampled_from([0.5, 0.9, 1.0, 0.0, -0.3]), st.floats(-1, 1)),
)


@hypothesis.settings(max_examples=150, deadline=None)
@given(edges=EDGES)
def test_one_to_one_has_the_greatest_total(edges: dict[tuple[int, int], float]) -> None:
    chosen = one_to_one(_pairs_of(edges))

    assert chosen["left_id"].n_unique() == chosen["right_id"].n_unique() == chosen.height
    assert set(chosen.select("left_id", "right_id").rows()) <= {
        (f"l{i}", f"r{j}") for i, j in edges
    }
    best = max(
        sum(max(0.0, edges.get((i, j), 0.0)) for i, j in enumerate(order))
        for order in permutations(range(5))
    )
    assert abs(float(chosen["similarity"].sum()) - best) < 1e-9


@hypothesis.settings(max_examples=60, deadline=None)
@given(edges=EDGES, seed=st.integers(0, 1000))
def test_one_to_one_does_not_depend_on_the_order_of_pairs(
    edges: dict[tuple[int, int], float], seed: int
) -> None:
    pairs = _pairs_of(edges)

    shuffled = pairs.sample(fraction=1, shuffle=True, seed=seed)

    assert one_to_one(shuffled).equals(one_to_one(pairs))


def test_one_to_one_can_choose_a_pair_that_is_the_best_of_neither_item() -> None:
    edges = {(0, 0): 0.99, (0, 1): 0.95, (1, 0): 0.97, (1, 1): 0.85}

    chosen = one_to_one(_pairs_of(edges))

    assert chosen.rows() == [("l0", "r1", 0.95), ("l1", "r0", 0.97)]


def test_one_to_one_matches_many_copies() -> None:
    edges = {(i, j): 1.0 for i in range(300) for j in range(300)}

    assert one_to_one(_pairs_of(edges)).height == 300


def test_one_to_one_of_no_pairs_is_empty() -> None:
    assert one_to_one(_pairs_of({})).equals(_pairs_of({}))


def _pairs_of(edges: dict[tuple[int, int], float]) -> pl.DataFrame:
    rows = [(f"l{i}", f"r{j}", similarity) for (i, j), similarity in sorted(edges.items())]
    return pl.DataFrame(
        rows,
        schema={"left_id": pl.String, "right_id": pl.String, "similarity": pl.Float64},
        orient="row",
    )


def _name(settings: MatchSettings) -> str:
    return f"{settings.mode}{MODES.index(settings)}"


def _match(store: Store, settings: MatchSettings, name: str = "pair") -> MatchReport:
    return MatchStage(store, name, settings, left="left", right="right").run()


def _rows(store: Store, name: str = "pair") -> pl.DataFrame:
    table = match_table(store, name)
    commit = table.latest()
    assert commit is not None
    return table.read(commit)


def _damage(store: Store, role: str) -> Path:
    commit = match_table(store, "pair").latest()
    assert commit is not None
    file = commit.file_with_role(role) or commit.file_with_role(ROWS)
    assert file is not None
    return flip_bit(store, match_table(store, "pair"), file)


def _expected(
    store: Store, left: Images, right: Images, settings: MatchSettings
) -> list[tuple[str, str, int, float]]:
    """left_id, right_id, rank and similarity of the matches, by definition."""
    left_ids, right_ids = usable(left), usable(right)
    scores = similarity(store, "left", left, "right", right)
    assert isinstance(settings.threshold, float)
    ranked = [_ranked(row, right_ids) for row in scores]
    if settings.mode == "mutual":
        back = [_ranked(column, left_ids) for column in scores.T]
        best_of_right = {right_ids[at]: order[0][1] for at, order in enumerate(back) if order}
        ranked = [
            [best for best in order[:1] if best_of_right[best[1]] == item]
            for item, order in zip(left_ids, ranked, strict=True)
        ]
    if settings.mode == "one_to_one":
        above = np.where(scores >= max(settings.threshold, 1e-9), scores, 0.0)
        rows, columns = linear_sum_assignment(above, maximize=True)
        pairs = {i: j for i, j in zip(rows, columns, strict=True) if above[i, j] > 0}
        ranked = [
            [(float(scores[i, pairs[i]]), right_ids[pairs[i]])] if i in pairs else []
            for i in range(len(left_ids))
        ]
    k = {"one_to_one": 1, "all": None, "best": 1, "mutual": 1, "top_k": settings.k}[settings.mode]
    return [
        (item, other, position + 1, score)
        for item, order in zip(left_ids, ranked, strict=True)
        for position, (score, other) in enumerate(order[:k])
        if score >= float(settings.threshold)
    ]


def _ranked(scores: Doubles, ids: Sequence[str]) -> list[tuple[float, str]]:
    """The ids with their scores, the greatest first and ties by id."""
    paired = zip(scores.tolist(), ids, strict=True)
    return sorted(paired, key=lambda pair: (-pair[0], pair[1]))
