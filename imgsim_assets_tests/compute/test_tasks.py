from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.compute import tasks
from imgsim_assets.compute.runner import TaskKind
from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.compute.tasks import run_tasks, task_ranges, use_compute
from imgsim_assets.errors import StoreError
from imgsim_assets_tests.support.compute_tasks import fail, square

T = TypeVar("T")
R = TypeVar("R")


class EightSlots:
    """A runner with room for eight tasks, which runs none."""

    slots = 8

    def map(self, function: Callable[[T], R], tasks: Sequence[T], kind: TaskKind) -> Iterator[R]:
        raise AssertionError("nothing is to run")

    def tell(self, message: str) -> None:
        pass

    def close(self) -> None:
        pass


def test_results_come_in_the_order_of_the_tasks() -> None:
    assert list(run_tasks(square, [3, 1, 2], "squares")) == [9, 1, 4]


def test_error_of_a_task_is_raised_as_it_is() -> None:
    with pytest.raises(StoreError, match="task 7 found no file"):
        list(run_tasks(fail, [7], "failures"))


def test_without_tasks_nothing_runs() -> None:
    token = tasks._runner.set(EightSlots())
    try:
        assert list(run_tasks(square, [], "squares")) == []
    finally:
        tasks._runner.reset(token)


def test_progress_of_several_long_tasks_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr("imgsim_assets.progress.time.monotonic", lambda: float(next(now)))
    lines: list[str] = []

    with use_compute(ComputeSettings(), lines.append):
        list(run_tasks(square, [1, 2], "squares", unit="numbers"))

    assert lines[0].startswith("squares: 1/2 numbers")


@given(st.integers(0, 500), st.integers(1, 50), st.integers(1, 100), st.booleans())
def test_ranges_cover_everything_within_their_limits(
    count: int, smallest: int, more: int, on_cluster: bool
) -> None:
    largest = smallest + more
    token = tasks._runner.set(EightSlots() if on_cluster else None)
    try:
        ranges = task_ranges(count, smallest=smallest, largest=largest)
    finally:
        tasks._runner.reset(token)

    assert [number for each in ranges for number in each] == list(range(count))
    assert all(len(each) <= largest for each in ranges)
    assert len(ranges) <= max(-(-count // smallest), -(-count // largest))


def test_ranges_keep_the_slots_of_a_cluster_busy_and_are_large_without_one() -> None:
    assert len(task_ranges(10_000, smallest=10, largest=5_000)) == 2
    token = tasks._runner.set(EightSlots())
    try:
        assert len(task_ranges(10_000, smallest=10, largest=5_000)) == 32
        assert len(task_ranges(10_000, smallest=1_000, largest=5_000)) == 10
    finally:
        tasks._runner.reset(token)
