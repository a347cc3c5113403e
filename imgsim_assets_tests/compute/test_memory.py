"""The memory budget: a tiny one, with rows and vectors in scratch files, changes no file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imgsim_assets.compute import memory
from imgsim_assets.compute.memory import (
    DEFAULT_BUDGET,
    memory_budget,
    return_freed_memory,
    use_memory_budget,
)
from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.compared_stores import CASES_OF_IMAGES, files_of, write_images


@pytest.fixture
def tiny_budget(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(memory, "MIN_BUDGET", 1)
    return 64


@pytest.mark.parametrize("name", ["graph", "mutual", "groups"])
def test_files_are_the_same_with_a_tiny_budget(
    tmp_path: Path, built_of_images: Path, tiny_budget: int, name: str
) -> None:
    large, small = (
        Store.open(shutil.copytree(built_of_images, tmp_path / each)) for each in ("a", "b")
    )
    case = CASES_OF_IMAGES[name]

    case.stage(large).run()
    with use_memory_budget(tiny_budget):
        case.stage(small).run()

    assert files_of(small) == files_of(large)


def test_index_is_the_same_with_a_tiny_budget(
    tmp_path: Path, built_of_images: Path, tiny_budget: int
) -> None:
    with use_memory_budget(tiny_budget):
        write_images(store := Store.open(tmp_path))

    indexes = "shop/index", "suppliers/index"
    files, expected = files_of(store), files_of(Store.open(built_of_images))
    assert [files[name] for name in indexes] == [expected[name] for name in indexes]


def test_declared_budget_holds_while_tasks_run() -> None:
    with use_compute(ComputeSettings(memory_budget_mib=64)):
        assert memory_budget() == 64 << 20
        with use_memory_budget(None):
            assert memory_budget() == 64 << 20
    assert memory_budget() == DEFAULT_BUDGET


def test_too_small_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="memory budget"), use_memory_budget(1):
        pass


def test_another_c_library_keeps_its_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())

    return_freed_memory()
