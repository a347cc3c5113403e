"""Results after any history of changes and crashes equal those of a full computation."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import polars as pl
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.graph import GraphStage, graph_table
from imgsim_assets.similarity.group_tables import groups_table
from imgsim_assets.similarity.matches import MatchStage, match_table
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings, MatchSettings, Mode
from imgsim_assets.storage.local_files import LocalFiles
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.blocks import small_blocks
from imgsim_assets_tests.support.catalogs import indexed
from imgsim_assets_tests.support.histories import POOL

MODES: dict[Mode, MatchSettings] = {
    "all": MatchSettings(mode="all", threshold=0.3),
    "best": MatchSettings(mode="best", threshold=-1, max_shared=2),
    "top_k": MatchSettings(mode="top_k", k=2, threshold=0.1, compare="mean_best"),
    "mutual": MatchSettings(mode="mutual", threshold=-1, compare="first"),
    "one_to_one": MatchSettings(mode="one_to_one", threshold=0.3),
}
GRAPH = GraphSettings(k=2)
GROUPS = GroupSettings(threshold=0.6)
SIDES = ("left", "right")


class Killed(BaseException):
    """Ends the process; no handler catches it."""


class CrashingFiles(LocalFiles):
    """Local files that kill the process after a number of writes."""

    def __init__(self, root: Path, writes: int) -> None:
        super().__init__(root)
        self._writes_left = writes

    def write(self, path: str, data: bytes) -> None:
        self._count_write()
        super().write(path, data)

    def create(self, path: str, data: bytes) -> None:
        self._count_write()
        super().create(path, data)

    def _count_write(self) -> None:
        self._writes_left -= 1
        if self._writes_left < 0:
            raise Killed


class Histories(RuleBasedStateMachine):
    """Two catalogs on real storage that change, and results that are updated or killed.

    Updates are in small blocks, the full computation in one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store.open(self.folder / "store")
        self.images: dict[str, dict[str, list[bytes]]] = {side: {} for side in SIDES}
        self.stale = True

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(
        side=st.sampled_from(SIDES),
        more=st.dictionaries(
            st.sampled_from([f"i{n:02d}" for n in range(16)]),
            st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=3),
            min_size=1,
            max_size=8,
        ),
    )
    def add_or_change(self, side: str, more: dict[str, list[int]]) -> None:
        changed = {item: [POOL[number] for number in images] for item, images in more.items()}
        self.images[side] = {**self.images[side], **changed}
        self.stale = True

    @rule(side=st.sampled_from(SIDES))
    def reorder_images(self, side: str) -> None:
        self.images[side] = {item: images[::-1] for item, images in self.images[side].items()}
        self.stale = True

    @rule(side=st.sampled_from(SIDES), share=st.integers(2, 4), first=st.integers(0, 3))
    def remove_some(self, side: str, share: int, first: int) -> None:
        gone = sorted(self.images[side])[first::share]
        self.images[side] = {k: v for k, v in self.images[side].items() if k not in gone}
        self.stale = True

    @rule(writes=st.integers(0, 60))
    def crash_during_update(self, writes: int) -> None:
        self._index(self.store)
        try:
            with small_blocks():
                self._update(Store(CrashingFiles(Path(self.store.url), writes)))
        except Killed:
            self.stale = True

    @rule()
    def update(self) -> None:
        self._index(self.store)
        with small_blocks():
            self._update(self.store)
        self.stale = False

    @invariant()
    def results_equal_a_full_computation(self) -> None:
        if self.stale:
            return
        self.stale = True  # checked once after each update
        fresh = Store.open(tempfile.mkdtemp(dir=self.folder))
        self._index(fresh)
        self._update(fresh)
        for updated, expected in zip(_results(self.store), _results(fresh), strict=True):
            assert updated.equals(expected)

    def _index(self, store: Store) -> None:
        for side in SIDES:
            indexed(store, side, self.images[side])

    def _update(self, store: Store) -> None:
        for name, declared in MODES.items():
            MatchStage(store, name, declared, left="left", right="right").run()
        GraphStage(store, "left", GRAPH).run()
        GroupStage(store, "left", GROUPS).run()


def _results(store: Store) -> list[pl.DataFrame]:
    tables = [match_table(store, name) for name in MODES]
    frames = []
    for table in (*tables, graph_table(store, "left"), groups_table(store, "left")):
        commit = table.latest()
        assert commit is not None
        frames.append(table.read(commit))
    return frames


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)
