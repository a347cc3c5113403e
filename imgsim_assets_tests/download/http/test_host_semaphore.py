from __future__ import annotations

import asyncio
import contextlib
import random

from imgsim_assets.download.http.host_semaphore import HostSemaphore


def test_semaphore_limits_concurrent_holders() -> None:
    async def max_concurrent() -> tuple[int, int]:
        semaphore = HostSemaphore(lambda: 3)
        now = most = finished = 0

        async def work() -> None:
            nonlocal now, most, finished
            if not semaphore.try_acquire():
                await semaphore.wait()
            now += 1
            most = max(most, now)
            await asyncio.sleep(random.uniform(0, 0.01))
            now -= 1
            finished += 1
            semaphore.release()

        await asyncio.wait_for(asyncio.gather(*(work() for _ in range(40))), 30)
        return most, finished

    assert asyncio.run(max_concurrent()) == (3, 40)


def test_waiters_acquire_in_fifo_order() -> None:
    async def order() -> list[int]:
        semaphore = HostSemaphore(lambda: 1)
        served: list[int] = []

        async def wait(number: int) -> None:
            await semaphore.wait()
            served.append(number)
            semaphore.release()

        assert semaphore.try_acquire()
        waiting = [asyncio.create_task(wait(number)) for number in range(5)]
        await asyncio.sleep(0)
        semaphore.release()
        assert not semaphore.try_acquire(), "a waiter comes first"
        await asyncio.gather(*waiting)
        assert semaphore.try_acquire()
        return served

    assert asyncio.run(order()) == list(range(5))


def test_cancelled_waiter_does_not_leak_a_slot() -> None:
    async def is_free() -> bool:
        for when in ("waiting", "given"):
            semaphore = HostSemaphore(lambda: 1)
            assert semaphore.try_acquire()
            task = asyncio.create_task(semaphore.wait())
            await asyncio.sleep(0)
            if when == "given":
                semaphore.release()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if when == "waiting":
                semaphore.release()
            if not semaphore.try_acquire():
                return False
        return True

    assert asyncio.run(is_free())
