from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.download.scheduling.host_queues import HostQueues

# Encodes a host and the position of the item among those of the host.
ItemNumber = int

HOSTS = st.lists(st.sampled_from("abcde"), max_size=40)


@settings(max_examples=150, deadline=None)
@given(HOSTS, st.integers(1, 4), st.integers(1, 9), st.randoms(use_true_random=False))
def test_every_item_is_taken_once_and_per_host_limit_holds(
    hosts: list[str], per_host: int, workers: int, rng: random.Random
) -> None:
    items = list(numbered_items(hosts))
    handed, most = asyncio.run(drain(items, per_host, workers, rng))
    assert sorted(handed) == sorted(items)
    assert all(count <= per_host for count in most.values())


@settings(max_examples=150, deadline=None)
@given(HOSTS)
def test_take_alternates_between_hosts(hosts: list[str]) -> None:
    async def order() -> list[ItemNumber]:
        queues = HostQueues(numbered_items(hosts), host_of, per_host=100)
        taken = []
        for _ in hosts:
            item = await asyncio.wait_for(queues.take(), 30)
            assert item is not None
            taken.append(item)
        return taken

    taken = asyncio.run(order())
    sizes = Counter(hosts)
    seen: Counter[str] = Counter()
    for item in taken:
        host, number = host_of(item), item // 26
        seen[host] += 1
        assert number == seen[host] - 1
        behind = [other for other in sizes if seen[other] < min(seen[host] - 1, sizes[other])]
        assert not behind


@settings(max_examples=100, deadline=None)
@given(HOSTS, st.integers(1, 3))
def test_full_host_does_not_block_other_hosts(hosts: list[str], per_host: int) -> None:
    async def taken_without_finishing() -> Counter[str]:
        queues = HostQueues(numbered_items(hosts), host_of, per_host)
        taken: Counter[str] = Counter()
        room = sum(min(count, per_host) for count in Counter(hosts).values())
        for _ in range(room):
            item = await asyncio.wait_for(queues.take(), 30)
            assert item is not None
            taken[host_of(item)] += 1
        return taken

    expected = {host: min(count, per_host) for host, count in Counter(hosts).items()}
    assert asyncio.run(taken_without_finishing()) == expected


def test_done_frees_a_slot_for_the_next_item_of_the_host() -> None:
    async def scenario() -> None:
        queues = HostQueues(numbered_items(["a", "a"]), host_of, per_host=1)
        first = await queues.take()
        assert first is not None
        waiting = asyncio.create_task(queues.take())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        queues.done(first)
        assert await asyncio.wait_for(waiting, 30) == item_number("a", 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("waiting", [1, 7])
def test_waiting_workers_get_none_when_no_item_is_left(waiting: int) -> None:
    async def scenario() -> list[ItemNumber | None]:
        queues = HostQueues(numbered_items(["a", "a"]), host_of, per_host=1)
        first = await queues.take()
        assert first is not None
        workers = [asyncio.create_task(queues.take()) for _ in range(waiting + 1)]
        await asyncio.sleep(0.01)
        queues.done(first)
        await asyncio.sleep(0.01)
        # The others wait, because the active item may be requeued.
        assert sum(worker.done() for worker in workers) == 1
        queues.done(item_number("a", 1))
        return await asyncio.wait_for(asyncio.gather(*workers), 30)

    assert Counter(asyncio.run(scenario())) == {item_number("a", 1): 1, None: waiting}


# ---- delays, pauses and limits ------------------------------------------------------


async def seconds_until(queues: HostQueues, expected: ItemNumber) -> float:
    """Seconds until `take` returns the expected item."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await asyncio.wait_for(queues.take(), 60) == expected
    return loop.time() - started


def test_requeued_item_frees_its_slot_and_returns_after_the_delay() -> None:
    async def scenario() -> None:
        queues = HostQueues(numbered_items(["a", "a"]), host_of, per_host=1)
        await seconds_until(queues, item_number("a", 0))
        started = asyncio.get_running_loop().time()
        queues.requeue(item_number("a", 0), 0.1)
        await seconds_until(queues, item_number("a", 1))
        queues.done(item_number("a", 1))
        await seconds_until(queues, item_number("a", 0))
        assert asyncio.get_running_loop().time() - started >= 0.09
        queues.done(item_number("a", 0))
        assert await queues.take() is None

    asyncio.run(scenario())


def test_pause_delays_only_its_host() -> None:
    async def scenario() -> None:
        queues = HostQueues(numbered_items(["a", "b"]), host_of, per_host=1)
        started = asyncio.get_running_loop().time()
        queues.pause("a", 0.1)
        queues.pause("a", 0.0)
        await seconds_until(queues, item_number("b", 0))
        await seconds_until(queues, item_number("a", 0))
        assert asyncio.get_running_loop().time() - started >= 0.09

    asyncio.run(scenario())


def test_interval_between_items_of_a_host() -> None:
    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        queues = HostQueues(numbered_items("aaaa"), host_of, per_host=9, interval=0.05)
        started = loop.time()
        for number in range(4):
            await seconds_until(queues, item_number("a", number))
        return loop.time() - started

    assert asyncio.run(scenario()) >= 0.149


def test_set_concurrency_limits_a_host_until_it_is_reset() -> None:
    async def scenario() -> None:
        queues = HostQueues(numbered_items("aaa"), host_of, per_host=9)
        queues.set_concurrency("a", 1)
        await seconds_until(queues, item_number("a", 0))
        waiting = asyncio.create_task(queues.take())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        queues.set_concurrency("a", None)
        assert await asyncio.wait_for(waiting, 30) == item_number("a", 1)

    asyncio.run(scenario())


def test_drop_host_returns_waiting_items_only() -> None:
    async def scenario() -> None:
        queues = HostQueues(numbered_items("aaab"), host_of, per_host=9)
        await seconds_until(queues, item_number("a", 0))
        await seconds_until(queues, item_number("b", 0))
        await seconds_until(queues, item_number("a", 1))
        queues.requeue(item_number("a", 1), 60)
        assert sorted(queues.drop_host("a")) == [item_number("a", 1), item_number("a", 2)]
        assert queues.drop_host("other") == []
        queues.done(item_number("b", 0))
        queues.done(item_number("a", 0))
        assert await asyncio.wait_for(queues.take(), 30) is None

    asyncio.run(scenario())


def test_take_returns_none_without_items() -> None:
    async def scenario() -> ItemNumber | None:
        queues: HostQueues = HostQueues([], host_of, per_host=1)
        return await asyncio.wait_for(queues.take(), 30)

    assert asyncio.run(scenario()) is None


def item_number(host: str, number: int) -> ItemNumber:
    return number * 26 + ord(host) - ord("a")


def host_of(item: ItemNumber) -> str:
    return chr(ord("a") + item % 26)


def numbered_items(hosts: Sequence[str]) -> list[ItemNumber]:
    seen: Counter[str] = Counter()
    items = []
    for host in hosts:
        items.append(item_number(host, seen[host]))
        seen[host] += 1
    return items


async def drain(
    items: Sequence[ItemNumber], per_host: int, workers: int, rng: random.Random
) -> tuple[list[ItemNumber], dict[str, int]]:
    """Take all items with several workers; returns the items and the peak of each host."""
    queues = HostQueues(items, host_of, per_host)
    handed: list[ItemNumber] = []
    active: Counter[str] = Counter()
    most: dict[str, int] = {}

    async def work() -> None:
        while (item := await queues.take()) is not None:
            host = host_of(item)
            handed.append(item)
            active[host] += 1
            most[host] = max(most.get(host, 0), active[host])
            for _ in range(rng.randint(0, 4)):
                await asyncio.sleep(0)
            active[host] -= 1
            queues.done(item)

    async with asyncio.timeout(60):
        await asyncio.gather(*(work() for _ in range(workers)))
    return handed, most
