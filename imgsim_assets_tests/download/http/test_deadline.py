from __future__ import annotations

import asyncio
import contextlib
import math
import time

import pytest

from imgsim_assets.download.http.deadline import Deadlines


def test_slow_task_ends_in_timeout_error() -> None:
    async def wait() -> float:
        started = time.monotonic()
        with pytest.raises(TimeoutError), Deadlines().start(0.1):
            await asyncio.sleep(30)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)
        return time.monotonic() - started

    assert 0.1 <= asyncio.run(wait()) < 25


def test_each_task_has_its_own_deadline() -> None:
    async def all_of_them() -> list[bool]:
        deadlines = Deadlines()

        async def work(seconds: float) -> bool:
            try:
                with deadlines.start(2):
                    await asyncio.sleep(seconds)
            except TimeoutError:
                return False
            return True

        return await asyncio.gather(*(work(30 * (number % 2)) for number in range(20)))

    assert asyncio.run(all_of_them()) == [number % 2 == 0 for number in range(20)]


def test_total_deadline_can_be_moved() -> None:
    async def wait() -> str:
        with Deadlines().start(0.05) as deadline:
            deadline.total_deadline = math.inf
            await asyncio.sleep(0.3)
            deadline.total_deadline = asyncio.get_running_loop().time() + 30
        return "done"

    assert asyncio.run(wait()) == "done"


def test_idle_deadline_ends_a_task_before_its_total_deadline() -> None:
    async def wait() -> float:
        started = time.monotonic()
        with contextlib.suppress(TimeoutError), Deadlines().start(30) as deadline:
            deadline.idle_deadline = asyncio.get_running_loop().time() + 0.1
            await asyncio.sleep(30)
        return time.monotonic() - started

    assert 0.1 <= asyncio.run(wait()) < 25


def test_suspended_process_extends_idle_deadlines() -> None:
    async def wait() -> str:
        with Deadlines().start(30) as deadline:
            deadline.idle_deadline = asyncio.get_running_loop().time() + 0.5
            time.sleep(1.5)
            await asyncio.sleep(0.2)
            deadline.idle_deadline = math.inf
        return "done"

    assert asyncio.run(wait()) == "done"


def test_idle_count_counts_tasks_without_activity() -> None:
    async def count() -> list[int]:
        deadlines = Deadlines()
        counts = []

        async def wait(*, active: bool) -> None:
            with deadlines.start(30) as deadline:
                await asyncio.sleep(0.3)
                if active:
                    deadline.touch(30)
                counts.append(deadlines.idle_count(0.2))
                await asyncio.sleep(0.1)

        await asyncio.gather(wait(active=False), wait(active=True), wait(active=True))
        return [*counts, deadlines.idle_count(0)]

    assert asyncio.run(count()) == [3, 2, 1, 0]


def test_current_returns_the_deadline_of_the_task() -> None:
    async def ask() -> None:
        deadlines = Deadlines()
        with deadlines.start(30) as deadline:
            assert deadlines.current() is deadline
            assert await asyncio.create_task(other(deadlines)) is None
        assert deadlines.current() is None

    async def other(deadlines: Deadlines) -> object:
        return deadlines.current()

    asyncio.run(ask())


def test_external_cancellation_is_not_a_timeout() -> None:
    async def cancelled() -> bool:
        async def wait() -> None:
            with Deadlines().start(30):
                await asyncio.sleep(30)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())


def test_external_cancellation_wins_over_an_expired_deadline() -> None:
    async def cancelled() -> bool:
        async def wait() -> None:
            with Deadlines().start(30) as deadline:
                deadline.expire()
                asyncio.current_task().cancel()  # type: ignore[union-attr]
                await asyncio.sleep(30)

        task = asyncio.create_task(wait())
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())


def test_other_errors_propagate() -> None:
    async def fail() -> None:
        with Deadlines().start(30):
            raise KeyError("x")

    with pytest.raises(KeyError):
        asyncio.run(fail())
