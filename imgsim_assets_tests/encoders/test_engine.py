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
)
from imgsim_assets.encoders.timings import StageTimings
from imgsim_assets.errors import EncoderError
from imgsim_assets.images.errors import ImageError
from imgsim_assets_tests.support.encoders import ThumbnailEncoder


class Recording(ThumbnailEncoder):
    """Records the sizes of its batches and how many of them ran at the same time."""

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
    """Replicas that wait until all of them encode."""

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
        assert self._busy.acquire(blocking=False), "two batches at once on one GPU"
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
def test_images_are_encoded_or_fail_in_order_for_any_batch_size(
    count: int, batch_size: int, cores: int, broken: set[int]
) -> None:
    encoder = Recording()

    results = list(Engine(encoder, batch_size, cores=cores).run(range(count), _load(broken)))

    failed = [result.key for result in results if isinstance(result, FailedImage)]
    encoded = [key for result in results if isinstance(result, EncodedBatch) for key in result.keys]
    assert failed == sorted(broken & set(range(count)))
    assert encoded == [key for key in range(count) if key not in broken]
    assert _features(results).tolist() == [_pixel(key) for key in encoded]
    assert max(encoder.sizes, default=0) <= batch_size


class Particular(Recording):
    """Cannot prepare an image with edges of less than 8 pixels."""

    def prepare(self, image: Image.Image) -> np.ndarray:
        if min(image.size) < 8:
            raise ValueError(f"an image of {image.size}")
        return super().prepare(image)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 30),
    batch_size=st.integers(1, 9),
    unpreparable=st.sets(st.integers(0, 29), max_size=16),
    broken=st.sets(st.integers(0, 29), max_size=5),
)
def test_preprocess_error_fails_only_its_image(
    count: int, batch_size: int, unpreparable: set[int], broken: set[int]
) -> None:
    engine = Engine(Particular(), batch_size, label="the encoder", cores=2)

    results = list(engine.run(range(count), _load(broken, unpreparable)))

    failed = {result.key: result.error for result in results if isinstance(result, FailedImage)}
    late = [key for key in failed if key not in broken]
    assert late == sorted(late)
    assert failed.keys() == (unpreparable | broken) & set(range(count))
    for key in late:
        assert failed[key].status == PREPROCESS_ERROR
        assert "the encoder cannot prepare it (ValueError: an image of" in failed[key].detail
    assert _features(results).tolist() == [
        _pixel(key) for key in range(count) if key not in unpreparable | broken
    ]


@pytest.mark.parametrize("count", [1, 17, 200])
def test_encoder_that_can_prepare_no_image_raises(count: int) -> None:
    class Broken(ThumbnailEncoder):
        def prepare(self, image: Image.Image) -> np.ndarray:
            raise ZeroDivisionError("its own fault")

    with pytest.raises(EncoderError, match=r"cannot prepare any image \(ZeroDivisionError: its"):
        list(Engine(Broken(), 4, cores=2).run(range(count), _load()))


def test_many_preprocess_errors_without_success_raise() -> None:
    engine = Engine(Particular(), 4)
    unpreparable = set(range(17))

    with pytest.raises(EncoderError, match="cannot prepare any image"):
        list(engine.run(range(17), _load(unpreparable=unpreparable)))
    list(engine.run([17], _load()))

    assert all(
        isinstance(each, FailedImage)
        for each in engine.run(range(17), _load(unpreparable=unpreparable))
    )


def test_batches_of_broken_images_are_not_encoded() -> None:
    encoder = Recording()

    results = list(Engine(encoder, 2).run(range(9), _load(set(range(9)))))

    assert all(isinstance(result, FailedImage) for result in results)
    assert encoder.sizes == []


def test_fixed_batch_encoder_receives_only_full_batches() -> None:
    encoder = Fixed()

    results = list(Engine(encoder, 4, cores=1).run(range(10), _load()))

    assert encoder.sizes == [4, 4, 4]
    assert _features(results).tolist() == [_pixel(key) for key in range(10)]


@pytest.mark.parametrize("kind", [Recording, Fixed])
def test_batch_is_halved_when_out_of_memory(kind: type[Recording]) -> None:
    encoder = kind(memory=3)
    engine = Engine(encoder, 16, cores=1)

    results = list(engine.run(range(40), _load()))

    assert engine.batch_size == 2
    assert _features(results).tolist() == [_pixel(key) for key in range(40)]
    assert encoder.sizes[:3] == [16, 8, 4]
    assert encoder.released == 3
    assert max(encoder.sizes[3:]) == 2


def test_later_runs_keep_the_halved_batch_size() -> None:
    encoder = Recording(memory=3)
    engine = Engine(encoder, 8, cores=1)
    list(engine.run(range(8), _load()))
    encoder.sizes.clear()

    list(engine.run(range(8), _load()))

    assert max(encoder.sizes) == 2


def test_out_of_memory_for_single_image_raises_with_fix() -> None:
    with pytest.raises(EncoderError, match=r"out of memory: the encoder .* use a smaller encoder"):
        list(Engine(Recording(memory=0), 4).run(range(9), _load()))


def test_other_encoder_errors_are_not_treated_as_out_of_memory() -> None:
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
def test_replicas_encode_concurrently_from_one_queue(count: int) -> None:
    encoder = Replicated(count)

    results = list(Engine(encoder, 2, cores=2).run(range(count * 8), _load()))

    assert _features(results).tolist() == [_pixel(key) for key in range(count * 8)]
    assert [replica.batches for replica in encoder.made] == [4] * count


def test_unexpected_error_of_load_ends_the_run() -> None:
    def load(key: int) -> Image.Image:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Engine(Recording(), 4).run(range(9), load))


def test_closed_run_stops_decoding() -> None:
    loaded: list[int] = []

    def load(key: int) -> Image.Image:
        loaded.append(key)
        return _image(key)

    results = Engine(Recording(), 2, cores=1).run(range(1000), load)
    next(results)
    results.close()

    assert len(loaded) < 50


class Slow(ThumbnailEncoder):
    """Counts the calls under way in all threads."""

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
def test_no_work_is_under_way_after_a_run(fails: bool) -> None:
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


def test_run_after_closed_run_is_complete() -> None:
    engine = Engine(Recording(), 2, cores=2)
    for _ in range(3):
        given_up = engine.run(range(1000), _load())
        next(given_up)
        given_up.close()

    assert _features(list(engine.run(range(20), _load()))).tolist() == [
        _pixel(key) for key in range(20)
    ]


class Threaded(ThumbnailEncoder):
    """Records the threads that prepared and encoded."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()

    def prepare(self, image: Image.Image) -> np.ndarray:
        self.threads.add(threading.current_thread())
        return super().prepare(image)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        self.threads.add(threading.current_thread())
        return super().encode(batch)


def test_threads_live_as_long_as_the_engine() -> None:
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


def test_cpu_has_one_thread_for_each_core() -> None:
    class OnEveryCore(Threaded):
        def replicas(self, cores: int) -> Sequence[Threaded]:
            return [self] * cores

    encoder = OnEveryCore()

    list(Engine(encoder, 2, cores=2).run(range(40), _load()))

    assert len(encoder.threads) <= 2


def test_concurrent_runs_share_replicas() -> None:
    encoder = Replicated(2)
    engine = Engine(encoder, 2, cores=2)

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(lambda: list(engine.run(range(16), _load()))) for _ in range(2)]

    for run in runs:
        assert _features(run.result()).tolist() == [_pixel(key) for key in range(16)]


def test_timings_give_images_per_second_by_part() -> None:
    timings = StageTimings()
    timings.add(images=3, decode=1.0, preprocess=0.5)
    timings.add(images=1, decode=1.0)
    assert timings.images_per_second() == {"decode": 2.0, "preprocess": 8.0}

    timings.add(forward=4.0)

    assert timings.images_per_second() == {"decode": 2.0, "preprocess": 8.0, "forward": 1.0}


@pytest.mark.parametrize(("device", "counts"), [("cuda:0", True), ("cpu", False)])
def test_gpu_forward_pass_is_measured_in_elapsed_time(device: str, counts: bool) -> None:
    """Waiting for a GPU is not work of a core."""

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
    broken: Set[int] = frozenset(), unpreparable: Set[int] = frozenset()
) -> Callable[[int], Image.Image]:
    def load(key: int) -> Image.Image:
        if key in broken:
            raise ImageError("truncated", "cut")
        if key in unpreparable:
            return Image.new("RGB", (8, 1))
        return _image(key)

    return load


def _features(results: Sequence[EncodedBatch[int] | FailedImage[int]]) -> np.ndarray:
    parts = [result.features for result in results if isinstance(result, EncodedBatch)]
    return np.concatenate(parts)[:, :3] if parts else np.empty((0, 3))
