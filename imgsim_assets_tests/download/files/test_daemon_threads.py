from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from imgsim_assets.download.files.daemon_threads import DaemonThreadPool


@pytest.fixture
def silence() -> Iterator[threading.Event]:
    """Waiting for it never ends before the test does."""
    event = threading.Event()
    yield event
    event.set()


def test_call_returns_or_raises_the_result_of_the_function() -> None:
    def half(number: int) -> int:
        if number % 2:
            raise ValueError(str(number))
        return number // 2

    async def all_of_them() -> list[object]:
        readers = DaemonThreadPool(3)
        calls = (readers.call(half, number) for number in range(50))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        readers.close()
        return list(answers)

    answers = asyncio.run(asyncio.wait_for(all_of_them(), 30))
    assert answers[::2] == list(range(25))
    assert [str(error) for error in answers[1::2]] == [str(number) for number in range(1, 50, 2)]


def test_max_threads_limits_threads_and_close_ends_them() -> None:
    seen: set[threading.Thread] = set()

    def work() -> None:
        seen.add(threading.current_thread())

    async def all_of_them() -> None:
        readers = DaemonThreadPool(4)
        await asyncio.gather(*(readers.call(work) for _ in range(200)))
        readers.close()

    asyncio.run(asyncio.wait_for(all_of_them(), 30))
    for thread in seen:
        thread.join(10)
    assert 1 <= len(seen) <= 4
    assert not any(thread.is_alive() for thread in seen)


def test_hanging_calls_block_neither_other_calls_nor_close(silence: threading.Event) -> None:
    async def some_of_them() -> int:
        readers = DaemonThreadPool(40)
        silent = [asyncio.create_task(readers.call(silence.wait)) for _ in range(39)]
        await asyncio.sleep(0.05)
        answer = await readers.call(lambda: 1)
        answer += await asyncio.to_thread(lambda: 1)
        for task in silent:
            task.cancel()
        readers.close()
        return answer

    assert asyncio.run(asyncio.wait_for(some_of_them(), 30)) == 2
    assert not silence.is_set()
