from __future__ import annotations

import asyncio
import contextlib
import random

from imgsim_assets.download.http.host_semaphore import HostSemaphore


def test_no_more_than_so_many_hold_a_place() -> None:
    async def most_at_once() -> tuple[int, int]:
        places = HostSemaphore(3)
        now = most = finished = 0

        async def work() -> None:
            nonlocal now, most, finished
            if not places.take():
                await places.wait()
            now += 1
            most = max(most, now)
            await asyncio.sleep(random.uniform(0, 0.01))
            now -= 1
            finished += 1
            places.give_back()

        await asyncio.wait_for(asyncio.gather(*(work() for _ in range(40))), 10)
        return most, finished

    assert asyncio.run(most_at_once()) == (3, 40)


def test_those_who_wait_are_served_in_turn() -> None:
    async def order() -> list[int]:
        places = HostSemaphore(1)
        served: list[int] = []

        async def wait(number: int) -> None:
            await places.wait()
            served.append(number)
            places.give_back()

        assert places.take()
        waiting = [asyncio.create_task(wait(number)) for number in range(5)]
        await asyncio.sleep(0)
        places.give_back()
        assert not places.take(), "nobody overtakes those who wait"
        await asyncio.gather(*waiting)
        assert places.take()
        return served

    assert asyncio.run(order()) == list(range(5))


def test_a_place_is_not_lost_with_somebody_who_gives_up() -> None:
    async def is_free() -> bool:
        for when in ("waiting", "given"):
            places = HostSemaphore(1)
            assert places.take()
            task = asyncio.create_task(places.wait())
            await asyncio.sleep(0)
            if when == "given":
                places.give_back()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if when == "waiting":
                places.give_back()
            if not places.take():
                return False
        return True

    assert asyncio.run(is_free())
