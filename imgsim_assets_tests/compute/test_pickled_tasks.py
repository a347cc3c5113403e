"""Tasks that share nothing with the process of the step, as those of a cluster, change no file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.encoders.settings import EvaluationSettings
from imgsim_assets.evaluation.stage import EvaluationStage
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings, MatchSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.blocks import small_blocks
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, repacked, tiny
from imgsim_assets_tests.support.pickled_tasks import pickled_tasks

_SHOP = {
    "a": tiny(1),
    "b": repacked(tiny(1)),
    "c": tiny(50, like=1),
    "d": tiny(2),
    "e": tiny(51, like=2),
    "f": tiny(3),
}
_SUPPLIERS = {"x": tiny(52, like=1), "y": tiny(2), "z": tiny(4)}
_EVIDENCE = EvidenceSettings(compute=True)


def _graph(settings: GraphSettings) -> Callable[[Store], Any]:
    return lambda store: GraphStage(store, "shop", settings)


def _matches(settings: MatchSettings) -> Callable[[Store], Any]:
    return lambda store: MatchStage(store, "pair", settings, left="shop", right="suppliers")


_STAGES: dict[str, tuple[Callable[[Store], Any], set[str]]] = {
    "graph": (_graph(GraphSettings(k=2)), {"join"}),
    "auto": (_graph(GraphSettings(k=2, threshold="auto")), {"join", "nearest items"}),
    "evidence": (
        _graph(GraphSettings(k=2, evidence=_EVIDENCE)),
        {"join", "evidence", "local features"},
    ),
    "mutual": (_matches(MatchSettings(mode="mutual", threshold=0.5)), {"join"}),
    "one_to_one": (_matches(MatchSettings(mode="one_to_one", threshold=0.5)), {"join"}),
    "groups": (
        lambda store: GroupStage(store, "shop", GroupSettings(threshold=0.5)),
        {"join"},
    ),
    "evaluation": (
        lambda store: EvaluationStage(store, "shop", EvaluationSettings(sample_size=4), THUMBNAIL),
        {"nearest items", "shop encoder evaluation"},
    ),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which both catalogs are indexed."""
    store = Store.open(tmp_path_factory.mktemp("built"))
    indexed(store, "shop", _SHOP)
    indexed(store, "suppliers", _SUPPLIERS)
    return Path(store.url)


@pytest.mark.parametrize("name", _STAGES)
def test_files_are_those_of_one_process(tmp_path: Path, built: Path, name: str) -> None:
    stage_of, labels = _STAGES[name]
    store, other = (
        Store.open(shutil.copytree(built, tmp_path / name)) for name in ("one", "other")
    )

    with small_blocks():
        stage_of(store).run()
        with pickled_tasks() as runner:
            stage_of(other).run()

    assert set(runner.labels) >= labels
    assert _files(other) == _files(store)


def _files(store: Store) -> dict[str, list[tuple[str, str]]]:
    """The role and the checksum of the files of every table."""
    results = {}
    for name in store.table_names():
        commit = store.table(name).latest()
        assert commit is not None
        if not name.startswith("image_features"):  # of files in the order of the tasks
            results[name] = [(file.role, file.sha256) for file in commit.files]
    return results
