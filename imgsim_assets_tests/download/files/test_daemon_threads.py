from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from imgsim_assets.download.files.daemon_threads import DaemonThreadPool


@pytest.fixture
def never_set() -> Iterator[threading.Event]:
    """An event that is set only after the test."""
    event = threading.Event()
    yield event
    event.set()


def test_call_returns_or_raises_the_result_of_the_function() -> None:
    def half(number: int) -> int:
        if number % 2:
            raise ValueError(str(number))
        return number // 2

    async def call_all() -> list[object]:
        pool = DaemonThreadPool(3)
        calls = (pool.call(half, number) for number in range(50))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        pool.close()
        return list(answers)

    answers = asyncio.run(asyncio.wait_for(call_all(), 30))
    assert answers[::2] == list(range(25))
    assert [str(error) for error in answers[1::2]] == [str(number) for number in range(1, 50, 2)]


def test_max_threads_limits_threads_and_close_ends_them() -> None:
    seen: set[threading.Thread] = set()

    def work() -> None:
        seen.add(threading.current_thread())

    async def call_all() -> None:
        pool = DaemonThreadPool(4)
        await asyncio.gather(*(pool.call(work) for _ in range(200)))
        pool.close()

    asyncio.run(asyncio.wait_for(call_all(), 30))
    for thread in seen:
        thread.join(30)
    assert 1 <= len(seen) <= 4
    assert not any(thread.is_alive() for thread in seen)


def test_hanging_calls_block_neither_other_calls_nor_close(never_set: threading.Event) -> None:
    async def call_with_hanging_threads() -> int:
        pool = DaemonThreadPool(40)
        silent = [asyncio.create_task(pool.call(never_set.wait)) for _ in range(39)]
        await asyncio.sleep(0.05)
        answer = await pool.call(lambda: 1)
        answer += await asyncio.to_thread(lambda: 1)
        for task in silent:
            task.cancel()
        pool.close()
        return answer

    assert asyncio.run(asyncio.wait_for(call_with_hanging_threads(), 30)) == 2
    assert not never_set.is_set()
