from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgsim_assets.encoders.engine import (
    PREPROCESS_ERROR,
    EncodedBatch,
    Engine,
    FailedImage,
    StageTimings,
)
from imgsim_assets.errors import EncoderError
from imgsim_assets.images.header import ImageError
from imgsim_assets_tests.support.encoders import ThumbnailEncoder


class Recording(ThumbnailEncoder):
    """Remembers the sizes of its batches and how many of them ran at the same time."""

    def __init__(self, memory: int = 1000) -> None:
        self.memory = memory
        self.sizes: list[int] = []
        self.released = 0

    def encode(self, batch: np.ndarray) -> np.ndarray:
        self.sizes.append(len(batch))
        if len(batch) > self.memory:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().encode(batch)

    def release_memory(self) -> None:
        self.released += 1


class Fixed(Recording):
    fixed_batch = True


class Replicated(ThumbnailEncoder):
    """Replicas that all have to be at work before any of them goes on."""

    def __init__(self, count: int) -> None:
        meeting = threading.Barrier(count, timeout=30)
        self.made = [_Replica(meeting) for _ in range(count)]

    def replicas(self, cores: int) -> Sequence[_Replica]:
        return self.made


class _Replica(ThumbnailEncoder):
    def __init__(self, meeting: threading.Barrier) -> None:
        self._meeting = meeting
        self._busy = threading.Lock()
        self.batches = 0

    def encode(self, batch: np.ndarray) -> np.ndarray:
        assert self._busy.acquire(blocking=False), "two batches at once on one card"
        self._meeting.wait()
        self.batches += 1
        rows = super().encode(batch)
        self._busy.release()
        return rows


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 40),
    batch_size=st.integers(1, 9),
    cores=st.integers(1, 4),
    broken=st.sets(st.integers(0, 39)),
)
def test_every_image_is_encoded_or_refused_in_order_whatever_the_batches(
    count: int, batch_size: int, cores: int, broken: set[int]
) -> None:
    encoder = Recording()

    results = list(Engine(encoder, batch_size, cores=cores).run(range(count), _load(broken)))

    refused = [result.key for result in results if isinstance(result, FailedImage)]
    encoded = [key for result in results if isinstance(result, EncodedBatch) for key in result.keys]
    assert refused == sorted(broken & set(range(count)))
    assert encoded == [key for key in range(count) if key not in broken]
    assert _features(results).tolist() == [_pixel(key) for key in encoded]
    assert max(encoder.sizes, default=0) <= batch_size


class Particular(Recording):
    """Cannot prepare an image of less than 8 pixels each way."""

    def prepare(self, image: Image.Image) -> np.ndarray:
        if min(image.size) < 8:
            raise ValueError(f"an image of {image.size}")
        return super().prepare(image)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 30),
    batch_size=st.integers(1, 9),
    odd=st.sets(st.integers(0, 29), max_size=16),
    broken=st.sets(st.integers(0, 29), max_size=5),
)
def test_an_image_that_cannot_be_prepared_costs_nothing_but_itself(
    count: int, batch_size: int, odd: set[int], broken: set[int]
) -> None:
    engine = Engine(Particular(), batch_size, what="the encoder", cores=2)

    results = list(engine.run(range(count), _load(broken, odd)))

    refused = {result.key: result.error for result in results if isinstance(result, FailedImage)}
    late = [key for key in refused if key not in broken]
    assert late == sorted(late)
    assert refused.keys() == (odd | broken) & set(range(count))
    for key in late:
        assert refused[key].status == PREPROCESS_ERROR
        assert "the encoder cannot prepare it (ValueError: an image of" in refused[key].detail
    assert _features(results).tolist() == [
        _pixel(key) for key in range(count) if key not in odd | broken
    ]


@pytest.mark.parametrize("count", [1, 17, 200])
def test_an_encoder_that_can_prepare_no_image_is_an_error(count: int) -> None:
    class Broken(ThumbnailEncoder):
        def prepare(self, image: Image.Image) -> np.ndarray:
            raise ZeroDivisionError("its own fault")

    with pytest.raises(EncoderError, match=r"cannot prepare any image \(ZeroDivisionError: its"):
        list(Engine(Broken(), 4, cores=2).run(range(count), _load()))


def test_many_odd_images_and_no_other_are_an_error() -> None:
    engine = Engine(Particular(), 4)
    odd = set(range(17))

    with pytest.raises(EncoderError, match="cannot prepare any image"):
        list(engine.run(range(17), _load(odd=odd)))
    list(engine.run([17], _load()))

    assert all(isinstance(each, FailedImage) for each in engine.run(range(17), _load(odd=odd)))


def test_batches_of_only_broken_images_reach_no_encoder() -> None:
    encoder = Recording()

    results = list(Engine(encoder, 2).run(range(9), _load(set(range(9)))))

    assert all(isinstance(result, FailedImage) for result in results)
    assert encoder.sizes == []


def test_an_encoder_of_fixed_batches_gets_full_ones_only() -> None:
    encoder = Fixed()

    results = list(Engine(encoder, 4, cores=1).run(range(10), _load()))

    assert encoder.sizes == [4, 4, 4]
    assert _features(results).tolist() == [_pixel(key) for key in range(10)]


@pytest.mark.parametrize("kind", [Recording, Fixed])
def test_a_batch_that_memory_does_not_hold_is_halved_until_it_does(kind: type[Recording]) -> None:
    encoder = kind(memory=3)
    engine = Engine(encoder, 16, cores=1)

    results = list(engine.run(range(40), _load()))

    assert engine.batch_size == 2
    assert _features(results).tolist() == [_pixel(key) for key in range(40)]
    assert encoder.sizes[:3] == [16, 8, 4]
    assert encoder.released == 3
    assert max(encoder.sizes[3:]) == 2


def test_a_later_run_keeps_the_size_that_memory_holds() -> None:
    encoder = Recording(memory=3)
    engine = Engine(encoder, 8, cores=1)
    list(engine.run(range(8), _load()))
    encoder.sizes.clear()

    list(engine.run(range(8), _load()))

    assert max(encoder.sizes) == 2


def test_memory_for_not_even_one_image_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(EncoderError, match=r"out of memory: the encoder .* use a smaller encoder"):
        list(Engine(Recording(memory=0), 4).run(range(9), _load()))


def test_another_error_of_an_encoder_is_not_taken_for_a_lack_of_memory() -> None:
    class Faulty(ThumbnailEncoder):
        calls = 0

        def encode(self, batch: np.ndarray) -> np.ndarray:
            self.calls += 1
            raise RuntimeError("a kernel failed")

    encoder = Faulty()

    with pytest.raises(RuntimeError, match="a kernel failed"):
        list(Engine(encoder, 4).run(range(4), _load()))
    assert encoder.calls == 1


@pytest.mark.parametrize("count", [2, 3])
def test_several_replicas_work_at_once_on_batches_from_one_queue(count: int) -> None:
    encoder = Replicated(count)

    results = list(Engine(encoder, 2, cores=2).run(range(count * 8), _load()))

    assert _features(results).tolist() == [_pixel(key) for key in range(count * 8)]
    assert [replica.batches for replica in encoder.made] == [4] * count


def test_what_load_raises_by_mistake_ends_the_run() -> None:
    def load(key: int) -> Image.Image:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Engine(Recording(), 4).run(range(9), load))


def test_a_run_that_is_given_up_decodes_no_further() -> None:
    loaded: list[int] = []

    def load(key: int) -> Image.Image:
        loaded.append(key)
        return _image(key)

    results = Engine(Recording(), 2, cores=1).run(range(1000), load)
    next(results)
    results.close()

    assert len(loaded) < 50


class Slow(ThumbnailEncoder):
    """Knows what is under way in any thread."""

    def __init__(self) -> None:
        self.under_way = 0
        self._lock = threading.Lock()

    @contextmanager
    def at_work(self, seconds: float) -> Iterator[None]:
        with self._lock:
            self.under_way += 1
        try:
            time.sleep(seconds)
            yield
        finally:
            with self._lock:
                self.under_way -= 1

    def encode(self, batch: np.ndarray) -> np.ndarray:
        with self.at_work(0.02):
            return super().encode(batch)


@pytest.mark.parametrize("fails", [False, True], ids=["given up", "failed"])
def test_after_a_run_nothing_of_it_is_under_way(fails: bool) -> None:
    encoder = Slow()

    def load(key: int) -> Image.Image:
        with encoder.at_work(0.002):
            if fails and key == 30:
                raise ZeroDivisionError
            return _image(key)

    results = Engine(encoder, 2, cores=2).run(range(1000), load)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        for number, _ in enumerate(results):
            if not fails and number == 2:
                results.close()

    assert encoder.under_way == 0


def test_a_run_after_one_that_was_given_up_gives_everything() -> None:
    engine = Engine(Recording(), 2, cores=2)
    for _ in range(3):
        given_up = engine.run(range(1000), _load())
        next(given_up)
        given_up.close()

    assert _features(list(engine.run(range(20), _load()))).tolist() == [
        _pixel(key) for key in range(20)
    ]


class Threaded(ThumbnailEncoder):
    """Remembers the threads that prepared and encoded."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()

    def prepare(self, image: Image.Image) -> np.ndarray:
        self.threads.add(threading.current_thread())
        return super().prepare(image)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        self.threads.add(threading.current_thread())
        return super().encode(batch)


def test_threads_stay_from_run_to_run_and_end_with_their_engine() -> None:
    encoder = Threaded()
    engine = Engine(encoder, 2, cores=2)

    for _ in range(5):
        list(engine.run(range(20), _load()))

    assert len(encoder.threads) <= 3
    assert all(thread.is_alive() for thread in encoder.threads)
    del engine
    for thread in encoder.threads:
        thread.join(30)
        assert not thread.is_alive()


def test_runs_at_the_same_time_share_the_replicas() -> None:
    encoder = Replicated(2)
    engine = Engine(encoder, 2, cores=2)

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(lambda: list(engine.run(range(16), _load()))) for _ in range(2)]

    for run in runs:
        assert _features(run.result()).tolist() == [_pixel(key) for key in range(16)]


def test_effort_becomes_images_a_second_of_each_part() -> None:
    timings = StageTimings()
    timings.add(images=3, decode=1.0, preprocess=0.5)
    timings.add(images=1, decode=1.0)
    assert timings.images_per_second() == {"decode": 2.0, "preprocess": 8.0}

    timings.add(forward=4.0)

    assert timings.images_per_second() == {"decode": 2.0, "preprocess": 8.0, "forward": 1.0}


@pytest.mark.parametrize(("device", "counts"), [("cuda:0", True), ("cpu", False)])
def test_a_pass_on_a_card_is_counted_by_the_clock(device: str, counts: bool) -> None:
    """What waits for a card is no work of a core's."""

    class Waiting(ThumbnailEncoder):
        def __init__(self) -> None:
            self.device = device

        def encode(self, batch: np.ndarray) -> np.ndarray:
            time.sleep(0.2)
            return super().encode(batch)

    engine = Engine(Waiting(), 4, cores=1)
    list(engine.run(range(4), _load()))

    assert engine.device == device
    assert (engine.timings.forward >= 0.2) is counts


def _image(key: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (key, 2 * key, 3 * key))


def _pixel(key: int) -> list[float]:
    return [key - 127.5, 2 * key - 127.5, 3 * key - 127.5]


def _load(
    broken: Set[int] = frozenset(), odd: Set[int] = frozenset()
) -> Callable[[int], Image.Image]:
    def load(key: int) -> Image.Image:
        if key in broken:
            raise ImageError("truncated", "cut")
        if key in odd:
            return Image.new("RGB", (8, 1))
        return _image(key)

    return load


def _features(results: Sequence[EncodedBatch[int] | FailedImage[int]]) -> np.ndarray:
    parts = [result.features for result in results if isinstance(result, EncodedBatch)]
    return np.concatenate(parts)[:, :3] if parts else np.empty((0, 3))
