"""Match tables, graphs and groups over the orientations of real images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.turned_vectors import turned_tables
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import SettingsError, StoreError
from imgsim_assets.images.orientation import ORIENTATIONS, Orientation
from imgsim_assets.similarity.audit import audit_graph, audit_matches
from imgsim_assets.similarity.calibration import calibration_table
from imgsim_assets.similarity.duplicate_groups import GroupReport, GroupStage
from imgsim_assets.similarity.graph import GraphStage, graph_table
from imgsim_assets.similarity.group_tables import groups_table
from imgsim_assets.similarity.matches import MatchReport, MatchStage, match_table
from imgsim_assets.similarity.orientations import TurnedCatalogs
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings, MatchSettings
from imgsim_assets.storage.commit import ROWS, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support import encoders
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, sha256_of, tiny
from imgsim_assets_tests.support.damage import flip_bit, flip_bit_in_blob
from imgsim_assets_tests.support.encoders import encoded_count

BY_NAME = {each.name: each for each in ORIENTATIONS}
# A copy of each left image in one orientation.
COPIES = {f"r{number}": (number, each) for number, each in enumerate(ORIENTATIONS)}
DECLARED = MatchSettings(threshold=0.9, orientations=True)


def turned(seed: int, orientation: Orientation) -> bytes:
    """The image `tiny(seed)` in an orientation."""
    body = io.BytesIO()
    orientation.apply(Image.open(io.BytesIO(tiny(seed)))).save(body, "PNG")
    return body.getvalue()


@pytest.fixture
def shops(store: Store) -> Store:
    """A store of eight images, and of a copy of each in another orientation."""
    indexed(store, "left", {f"l{number}": tiny(number) for number in range(8)})
    indexed(store, "right", {item: turned(*copy) for item, copy in COPIES.items()})
    return store


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which the encoder writes a line for each image."""
    path = tmp_path / "encoded"
    monkeypatch.setenv(encoders.COUNTER, str(path))
    return path


def test_left_image_matches_its_copy_and_the_orientation_says_how_it_is_turned(
    shops: Store,
) -> None:
    report = match(shops)

    rows = newest(match_table(shops, "pair"))
    assert rows.select("left_id", "right_id", "orientation").rows() == [
        (f"l{number}", item, each.name) for item, (number, each) in COPIES.items()
    ]
    assert rows["similarity"].to_list() == [1.0] * 8
    assert report.turned == 8


def test_without_orientations_only_the_upright_copy_matches(shops: Store) -> None:
    report = match(shops, MatchSettings(threshold=0.9))

    rows = newest(match_table(shops, "pair"))
    assert rows.select("left_id", "right_id").rows() == [("l0", "r0")]
    assert "orientation" not in rows.columns
    assert report.turned is None
    assert not any(".rotated" in name or ".mirrored" in name for name in shops.table_names())


def test_orientations_can_be_switched_on_and_off(shops: Store) -> None:
    upright = MatchSettings(threshold=0.9)

    found = [match(shops, settings).matches for settings in (upright, DECLARED, upright, DECLARED)]

    assert found == [1, 8, 1, 8]


def test_images_are_encoded_turned_once_and_only_new_left_ones(shops: Store, counter: Path) -> None:
    match(shops)
    assert encoded_count(counter) == 7 * 8

    again = match(shops)
    indexed(shops, "left", {f"l{number}": tiny(number) for number in range(9)})
    indexed(shops, "right", {"r": tiny(50), "s": turned(8, BY_NAME["mirrored"])})
    before = encoded_count(counter)
    report = match(shops)

    assert (again.changed, again.turned) == (False, 0)
    assert (report.turned, report.incremental) == (1, True)
    assert encoded_count(counter) - before == 7
    assert newest(match_table(shops, "pair")).select("left_id", "orientation").rows() == [
        ("l8", "mirrored")
    ]


def test_each_orientation_has_a_table_by_sha256_and_other_catalogs_reuse_it(
    shops: Store, counter: Path
) -> None:
    match(shops)
    indexed(shops, "again", {"a": tiny(3)})
    before = encoded_count(counter)

    report = MatchStage(
        shops, "more", DECLARED, left="again", right="right", encoders={"again": THUMBNAIL}
    ).run()

    vectors = fingerprint(THUMBNAIL)
    assert [name for name in shops.table_names() if name.startswith("left/vectors/")] == sorted(
        [f"left/vectors/{vectors}", *(f"left/vectors/{vectors}.{n}" for n in [*BY_NAME][1:])]
    )
    assert all(
        table.keys() == {sha256_of(tiny(3))} for table in turned_tables(shops, "again", vectors)
    )
    assert (report.matches, report.turned, encoded_count(counter) - before) == (1, 0, 0)


def test_vectors_of_turned_images_are_those_of_images_that_were_turned(shops: Store) -> None:
    match(shops)
    vectors = fingerprint(THUMBNAIL)

    tables = turned_tables(shops, "left", vectors)

    copies = VectorTable(shops, "right", vectors)
    for number, table in enumerate(tables, start=1):
        of_left = table.read([sha256_of(tiny(number))]).vectors
        of_copy = copies.read([sha256_of(turned(number, ORIENTATIONS[number]))]).vectors
        np.testing.assert_array_equal(of_left, of_copy)


def test_damaged_vectors_of_turned_images_are_computed_again(shops: Store) -> None:
    match(shops)
    table = turned_tables(shops, "left", fingerprint(THUMBNAIL))[2]
    before = newest(match_table(shops, "pair"))
    commit = table.table.latest()
    assert commit is not None
    flip_bit(shops, table.table, commit.files_with_role()[0])
    indexed(shops, "left", {f"l{number}": tiny(number) for number in range(1, 8)})

    report = match(shops)

    assert report.turned == 8 - 1
    assert table.rebuild_count == 1
    assert newest(match_table(shops, "pair")).equals(before.filter(pl.col("left_id") != "l0"))


def test_missing_bytes_are_named_and_nothing_is_committed(shops: Store) -> None:
    flip_bit_in_blob(shops, sha256_of(tiny(2)))

    with pytest.raises(StoreError, match="orientations lack the bytes of 1 image:"):
        match(Store.open(shops.url))

    assert match_table(shops, "pair").latest() is None


def test_image_that_the_encoder_cannot_take_turned_is_compared_upright(
    shops: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = encoders.ThumbnailEncoder.encode

    def only_upright(self: Any, batch: np.ndarray) -> np.ndarray:
        features = encode(self, batch)
        features[np.abs(features - features.mean(axis=1, keepdims=True)).sum(axis=1) > 0] = np.nan
        return features

    monkeypatch.setattr(encoders.ThumbnailEncoder, "encode", only_upright)
    monkeypatch.setattr("imgsim_assets.encoders.turned_vectors.recorded_probe", lambda *_: None)

    report = match(shops)

    assert (report.matches, report.turned) == (1, 8)
    assert newest(match_table(shops, "pair"))["orientation"].to_list() == ["upright"]


def test_encoder_whose_vectors_have_changed_is_refused(
    shops: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = encoders.ThumbnailEncoder.encode
    monkeypatch.setattr(
        encoders.ThumbnailEncoder, "encode", lambda self, batch: encode(self, batch)[:, ::-1]
    )

    with pytest.raises(Exception, match="no longer gives the vectors"):
        match(shops)


def test_factory_that_was_not_declared_does_not_run(shops: Store) -> None:
    with pytest.raises(SettingsError, match="factory: the vectors of left were made by"):
        MatchStage(shops, "pair", DECLARED, left="left", right="right").run()


@pytest.mark.parametrize(
    "settings",
    [
        MatchSettings(mode="all", threshold=0.3, orientations=True),
        MatchSettings(mode="top_k", k=2, threshold=-1, orientations=True),
        MatchSettings(mode="mutual", threshold=0.3, orientations=True),
        MatchSettings(mode="one_to_one", threshold=0.3, orientations=True),
        MatchSettings(mode="best", threshold=0.1, compare="mean_best", orientations=True),
    ],
    ids=str,
)
def test_audit_passes_correct_results(store: Store, settings: MatchSettings) -> None:
    images = {f"l{n}": [tiny(n), turned(n + 1, ORIENTATIONS[n])] for n in range(8)}
    indexed(store, "left", images)
    indexed(store, "right", {item: turned(*copy) for item, copy in COPIES.items()})
    match(store, settings)
    graph = GraphSettings(k=2, orientations=True)
    GraphStage(store, "left", graph, encoder=THUMBNAIL).run()

    assert audit_matches(store, "pair", sample=100).passed
    assert audit_graph(store, "left", sample=100).passed


def test_audit_reports_another_orientation(shops: Store) -> None:
    match(shops)
    table = match_table(shops, "pair")
    commit = table.latest()
    assert commit is not None
    rows = table.read(commit).with_columns(orientation=pl.lit("mirrored_rotated_270"))
    others = [file for file in commit.files if file.role != ROWS]
    files = [table.write_rows(rows), *others]
    table.commit(lambda _: PendingCommit(files, commit.inputs, commit.properties))

    audit = audit_matches(shops, "pair", sample=100)

    assert (audit.missing, audit.false) == (0, 7)


def test_edges_of_a_graph_name_the_orientation_of_their_source(shops: Store) -> None:
    images = {"a": tiny(1), "b": turned(1, BY_NAME["rotated_90"]), "c": tiny(2)}
    indexed(shops, "shop", images)

    settings = GraphSettings(k=1, threshold=0.9, orientations=True)
    GraphStage(shops, "shop", settings, encoder=THUMBNAIL).run()

    edges = newest(graph_table(shops, "shop"))
    assert edges.select("src_id", "dst_id", "orientation").rows() == [
        ("a", "b", "rotated_90"),
        ("b", "a", "rotated_270"),
    ]


def test_members_of_a_group_name_the_orientation_that_shows_the_canonical_item(
    store: Store,
) -> None:
    images = {"a": tiny(1), "b": tiny(2)}
    images |= {f"c {each.name}": turned(1, each) for each in ORIENTATIONS[1:]}
    indexed(store, "shop", images)

    report = group(
        store, GroupSettings(threshold=0.9, canonical=("first_seen",), orientations=True)
    )

    rows = newest(groups_table(store, "shop"))
    assert (report.groups, report.grouped, report.turned) == (1, 8, 9)
    assert {
        id_: BY_NAME[name].inverse.name for id_, name in rows.select("id", "orientation").rows()
    } == {
        "a": "upright",
        **{f"c {each.name}": each.name for each in ORIENTATIONS[1:]},
    }
    assert rows["min_similarity"].to_list() == [1.0] * 8


def test_threshold_auto_is_measured_over_the_orientations(store: Store) -> None:
    # The nearest other image of each is a noisy copy, turned: only orientations see it.
    images = {f"a{n}": tiny(n) for n in range(110)}
    images |= {f"b{n}": noisy(n) for n in range(110)}
    indexed(store, "left", images)
    indexed(store, "right", {"r": tiny(500)})

    upright = match(store, MatchSettings(threshold="auto"))
    over_all = match(store, MatchSettings(threshold="auto", orientations=True))
    recommended = match(store, MatchSettings(threshold="recommended", orientations=True))

    assert upright.threshold < 0.5 < 0.8 < over_all.threshold
    assert (recommended.threshold, recommended.threshold_is_measured) == (over_all.threshold, True)
    assert calibration_table(store, "left", orientations=True).latest() is not None


def noisy(seed: int) -> bytes:
    """A noisy copy of an image, turned by a quarter."""
    body = io.BytesIO()
    copy = Image.open(io.BytesIO(tiny(1000 + seed, like=seed)))
    BY_NAME["rotated_90"].apply(copy).save(body, "PNG")
    return body.getvalue()


def test_empty_catalogs_have_no_matches(store: Store) -> None:
    indexed(store, "left", {"l": None})
    indexed(store, "right", {"r": tiny(1)})
    assert match(store).matches == 0

    indexed(store, "left", {"l": tiny(1)})
    indexed(store, "right", {"r": None})

    assert match(store).matches == 0
    assert TurnedCatalogs(store).encoded == 0


def match(store: Store, settings: MatchSettings = DECLARED) -> MatchReport:
    declared: Mapping[str, Any] = {"left": THUMBNAIL, "right": THUMBNAIL}
    return MatchStage(store, "pair", settings, left="left", right="right", encoders=declared).run()


def group(store: Store, settings: GroupSettings) -> GroupReport:
    return GroupStage(store, "shop", settings, encoders={"shop": THUMBNAIL}).run()


def newest(table: Table) -> pl.DataFrame:
    commit = table.latest()
    assert commit is not None
    return table.read(commit)
