"""Stages with tasks, and the files that they leave in a store, to compare two ways to run them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from imgsim_assets.encoders.settings import EvaluationSettings
from imgsim_assets.evaluation.stage import EvaluationStage
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings, MatchSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, repacked, tiny
from imgsim_assets_tests.support.tables import latest_commit

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
_ENCODERS = {"shop": THUMBNAIL, "suppliers": THUMBNAIL}


class Stage(Protocol):
    """Computes a table."""

    def run(self) -> object: ...


@dataclass(frozen=True)
class Case:
    """A stage, and the labels of the tasks that it has at least."""

    stage: Callable[[Store], Stage]
    labels: frozenset[str]


def case(stage: Callable[[Store], Stage], labels: Iterable[str] = ("join",)) -> Case:
    return Case(stage, frozenset(labels))


def graph(settings: GraphSettings, labels: Iterable[str] = ("join",)) -> Case:
    return case(lambda store: GraphStage(store, "shop", settings), labels)


def matches(settings: MatchSettings, labels: Iterable[str] = ("join",)) -> Case:
    def stage(store: Store) -> MatchStage:
        return MatchStage(
            store, "pair", settings, left="shop", right="suppliers", encoders=_ENCODERS
        )

    return case(stage, labels)


def groups(settings: GroupSettings, labels: Iterable[str] = ("join",)) -> Case:
    return case(lambda store: GroupStage(store, "shop", settings, encoders=_ENCODERS), labels)


CASES_OF_IMAGES = {
    "graph": graph(GraphSettings(k=2)),
    "auto": graph(GraphSettings(k=2, threshold="auto"), ["join", "nearest items"]),
    "evidence": graph(
        GraphSettings(k=2, evidence=_EVIDENCE), ["join", "evidence", "local features"]
    ),
    "orientations": matches(MatchSettings(threshold=0.5, orientations=True)),
    "mutual": matches(MatchSettings(mode="mutual", threshold=0.5)),
    "one_to_one": matches(MatchSettings(mode="one_to_one", threshold=0.5)),
    "groups": groups(GroupSettings(threshold=0.5)),
    "groups with evidence": groups(
        GroupSettings(evidence=_EVIDENCE), ["join", "evidence", "local features"]
    ),
    "groups of orientations": groups(GroupSettings(threshold=0.5, orientations=True)),
    "evaluation": case(
        lambda store: EvaluationStage(store, "shop", EvaluationSettings(sample_size=4), THUMBNAIL),
        ["nearest items", "shop encoder evaluation"],
    ),
}


def write_images(store: Store) -> None:
    """Write the catalogs of `CASES_OF_IMAGES`."""
    indexed(store, "shop", _SHOP)
    indexed(store, "suppliers", _SUPPLIERS)


def files_of(store: Store) -> dict[str, list[tuple[str, str]]]:
    """The role and the checksum of the files of every table."""
    return {
        name: [(file.role, file.sha256) for file in latest_commit(store.table(name)).files]
        for name in store.table_names()
        if not name.startswith("image_features")  # of files in the order of the tasks
    }
