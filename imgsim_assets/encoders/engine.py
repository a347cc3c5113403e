"""Images to features as fast as the machine allows: decoding and encoding overlap.

Decoding threads prepare images in order; batches of them go to the encoder's replicas, one
thread each: the cores of a CPU, or GPUs. Where the encoder has a decoder of its own, the threads
hand on JPEGs as they are, and the batch is decoded before it is encoded. Results come back in
the order of the keys. What decides an image's vector is the image alone: every batch of an
encoder that wants it so is filled up to the same size, so that neither its neighbors nor the
number of threads change the kernels that are run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.encoder import Decoder, Encoder
from imgsim_assets.encoders.hardware import is_out_of_memory, usable_cores
from imgsim_assets.errors import EncoderError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.header import ImageError
from imgsim_assets.images.jpeg import Jpeg

K = TypeVar("K")
# Batches handed to the replicas beyond those that they are at work on.
_BATCHES_WAITING = 1
# Status of an image that the encoder cannot prepare, and how many of them in a row, from the
# first one on, are the encoder's fault.
PREPROCESS_ERROR = "preprocess_error"
_MOST_ODD = 16


@dataclass(frozen=True)
class EncodedBatch(Generic[K]):
    """Images and their features: (n, dim), not normalized."""

    keys: Sequence[K]
    features: NDArray[Any]


@dataclass(frozen=True)
class FailedImage(Generic[K]):
    """An image that has no features, and why."""

    key: K
    error: ImageError


# What has become of a batch: those that are refused, and the others.
_Done = Sequence[EncodedBatch[K] | FailedImage[K]]


@dataclass(frozen=True)
class _PreprocessError:
    """What the encoder raised when it prepared an image."""

    error: Exception


@dataclass
class StageTimings:
    """Core seconds spent on decoding and preprocessing, and seconds of forward passes.

    What a CPU does is counted by what its core did, what a GPU does, by the clock.
    """

    images: int = 0
    decode: float = 0.0
    preprocess: float = 0.0
    forward: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, images: int = 0, **seconds: float) -> None:
        """Count further seconds of a part; threads may do so at the same time."""
        with self._lock:
            self.images += images
            for part, spent in seconds.items():
                setattr(self, part, getattr(self, part) + spent)

    def images_per_second(self) -> dict[str, float]:
        """Images a second that one core (or one card) does of each part."""
        parts = {"decode": self.decode, "preprocess": self.preprocess, "forward": self.forward}
        return {part: self.images / spent for part, spent in parts.items() if spent > 0}


class Engine:
    """Runs one encoder over any number of images in bounded memory.

    Its threads live as long as it does, from one run to the next: the C library keeps what each
    thread has freed for that thread, so that new ones in every run would take ever more memory.
    """

    def __init__(
        self, encoder: Encoder, batch_size: int, *, what: str = "the encoder", cores: int = 0
    ) -> None:
        self.batch_size = batch_size
        self.timings = StageTimings()
        self.encoder = encoder
        self._what = what
        self._cores = cores or usable_cores()
        self._decoder: Decoder | None = getattr(encoder, "jpeg_decoder", None)
        self._decoding = threading.Lock()
        self._can_prepare = False
        make = getattr(encoder, "replicas", None)
        self._replicas: Sequence[Encoder] = make(self._cores) if make else [encoder]
        self._free: SimpleQueue[Encoder] = SimpleQueue()
        for replica in self._replicas:
            self._free.put(replica)
        # Threads start with the first work that finds none idle, and end with their pool, which
        # nobody but this object holds.
        self._decoders = ThreadPoolExecutor(self._cores, "decode")
        start = getattr(encoder, "use_one_thread", None)
        self._encoders = ThreadPoolExecutor(len(self._replicas), "encode", start)
        self._fills_batches = bool(getattr(encoder, "fixed_batch", False))
        kinds = [str(getattr(replica, "device", "cpu")) for replica in self._replicas]
        self.device = ", ".join(dict.fromkeys(kinds))
        self._clock = time.thread_time if self.device == "cpu" else time.perf_counter

    def run(
        self, keys: Sequence[K], load: Callable[[K], Image.Image | Jpeg]
    ) -> Generator[EncodedBatch[K] | FailedImage[K], None, None]:
        """The features of the images that `load` gives, in order, batch by batch.

        `load` is called from several threads, and gives a Jpeg only to an encoder that decodes
        it (see encoder.left_undecoded). An ImageError of it refuses that image alone, as does
        whatever the encoder raises while it prepares one, unless it can prepare none.
        Raises EncoderError when the encoder misbehaves, or when the memory does not hold even
        one image. When it ends, by whatever, nothing of it is under way any more.
        """
        under_way: deque[Future[_Done[K]]] = deque()
        with closing(self._prepared(keys, load)) as prepared:
            try:
                yield from self._results(prepared, under_way)
            finally:
                _give_up(under_way)

    def _results(
        self,
        prepared: Iterable[tuple[K, NDArray[Any] | Jpeg | ImageError | _PreprocessError]],
        under_way: deque[Future[_Done[K]]],
    ) -> Generator[EncodedBatch[K] | FailedImage[K], None, None]:
        most = len(self._replicas) + _BATCHES_WAITING
        batch: list[tuple[K, NDArray[Any] | Jpeg]] = []
        for key, result in self._without_odd(prepared):
            if isinstance(result, ImageError):
                yield FailedImage(key, result)
                continue
            batch.append((key, result))
            if len(batch) < self.batch_size:
                continue
            under_way.append(self._encoders.submit(self._encode_batch, batch))
            batch = []
            while under_way and (under_way[0].done() or len(under_way) > most):
                yield from under_way.popleft().result()
        if batch:
            under_way.append(self._encoders.submit(self._encode_batch, batch))
        while under_way:
            yield from under_way.popleft().result()

    # ---- decoding -------------------------------------------------------------------

    def _prepared(
        self, keys: Sequence[K], load: Callable[[K], Image.Image | Jpeg]
    ) -> Generator[tuple[K, NDArray[Any] | Jpeg | ImageError | _PreprocessError], None, None]:
        """Every key with its prepared image, in order, a bounded number ahead."""
        ahead: deque[Future[tuple[K, NDArray[Any] | Jpeg | ImageError | _PreprocessError]]] = (
            deque()
        )
        remaining = iter(keys)
        most = 2 * self.batch_size + 2 * self._cores
        try:
            while True:
                ahead.extend(
                    self._decoders.submit(self._load_and_prepare, key, load)
                    for key in islice(remaining, most - len(ahead))
                )
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            _give_up(ahead)

    def _load_and_prepare(
        self, key: K, load: Callable[[K], Image.Image | Jpeg]
    ) -> tuple[K, NDArray[Any] | Jpeg | ImageError | _PreprocessError]:
        started = time.thread_time()
        try:
            image = load(key)
        except ImageError as error:
            return key, error
        decoded = time.thread_time()
        if isinstance(image, Jpeg):
            self.timings.add(decode=decoded - started)
            return key, image
        try:
            prepared = self.encoder.prepare(image)
        except (EncoderError, MemoryError):
            raise
        except Exception as error:
            # A factory's transform may raise anything over an image that it was not made for.
            return key, _PreprocessError(error)
        self.timings.add(
            images=1, decode=decoded - started, preprocess=time.thread_time() - decoded
        )
        return key, prepared

    def _without_odd(
        self, prepared: Iterable[tuple[K, NDArray[Any] | Jpeg | ImageError | _PreprocessError]]
    ) -> Iterator[tuple[K, NDArray[Any] | Jpeg | ImageError]]:
        """The same, with odd images refused; EncoderError if the encoder can prepare none.

        Odd images wait for the first one that can be prepared. Where none comes, an ordinary
        one stands in for it.
        """
        odd: list[tuple[K, _PreprocessError]] = []
        for key, result in prepared:
            if isinstance(result, _PreprocessError):
                odd.append((key, result))
                if not self._can_prepare and len(odd) > _MOST_ODD:
                    raise self._cannot_prepare(result.error)
            else:
                self._can_prepare |= not isinstance(result, ImageError)
                yield key, result
            if self._can_prepare:
                yield from ((late, self._refusal(each.error)) for late, each in odd)
                odd.clear()
        if odd:
            try:
                self.encoder.prepare(Image.new("RGB", (512, 512), (128, 128, 128)))
            except Exception as error:
                raise self._cannot_prepare(error) from error
            yield from ((late, self._refusal(each.error)) for late, each in odd)

    def _refusal(self, error: Exception) -> ImageError:
        return ImageError(
            PREPROCESS_ERROR, f"{self._what} cannot prepare it ({type(error).__name__}: {error})"
        )

    def _cannot_prepare(self, error: Exception) -> EncoderError:
        wrong = EncoderError(
            f"{self._what} cannot prepare any image ({type(error).__name__}: {error}); correct "
            "its 'prepare', or the transform of its factory"
        )
        wrong.__cause__ = error
        return wrong

    # ---- encoding -------------------------------------------------------------------

    def _encode_batch(self, batch: Sequence[tuple[K, NDArray[Any] | Jpeg]]) -> _Done[K]:
        ready, refused = self._decoded(batch)
        if not ready:
            return refused
        replica = self._free.get()
        started = self._clock()
        try:
            features = self._within_memory(replica, [prepared for _, prepared in ready])
        finally:
            self._free.put(replica)
        self.timings.add(forward=self._clock() - started)
        return [*refused, EncodedBatch([key for key, _ in ready], features)]

    def _decoded(
        self, batch: Sequence[tuple[K, NDArray[Any] | Jpeg]]
    ) -> tuple[list[tuple[K, Any]], list[FailedImage[K]]]:
        """The batch with its JPEGs decoded and prepared, and those that cannot be."""
        squares = iter(self._squares([item for _, item in batch if isinstance(item, Jpeg)]))
        ready: list[tuple[K, Any]] = []
        refused: list[FailedImage[K]] = []
        for key, item in batch:
            prepared = next(squares) if isinstance(item, Jpeg) else item
            if isinstance(item, Jpeg) and prepared is None:
                # What is wrong with it is for the decoder to say that all other files have.
                _, prepared = self._load_and_prepare(key, partial(_whole, item))
            if isinstance(prepared, _PreprocessError):
                prepared = self._refusal(prepared.error)
            if isinstance(prepared, ImageError):
                refused.append(FailedImage(key, prepared))
            else:
                ready.append((key, prepared))
        return ready, refused

    def _squares(self, jpegs: Sequence[Jpeg]) -> Sequence[Any | None]:
        if self._decoder is None or not jpegs:
            return []
        with self._decoding:
            started = self._clock()
            squares = self._decoder.decode(jpegs)
            images = sum(each is not None for each in squares)
            self.timings.add(images=images, decode=self._clock() - started)
        return squares

    def _within_memory(self, replica: Encoder, batch: Sequence[Any]) -> NDArray[Any]:
        """Features of a batch, in smaller parts if the memory does not hold it at once."""
        while True:
            size = self.batch_size
            try:
                parts = [
                    self._encode(replica, batch[at : at + size], size)
                    for at in range(0, len(batch), size)
                ]
                return np.concatenate(parts)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise EncoderError(
                        f"out of memory: {self._what} does not fit with one image ({error}); "
                        "use a smaller encoder, or another 'device'"
                    ) from error
                # Other replicas may have halved it already.
                self.batch_size = min(self.batch_size, size // 2)
            release = getattr(replica, "release_memory", None)
            if release is not None:
                release()

    def _encode(self, replica: Encoder, part: Sequence[Any], size: int) -> NDArray[Any]:
        count = len(part)
        if self._fills_batches:
            part = [*part, *[part[-1]] * (size - count)]
        features = np.asarray(replica.encode(self._stacked(part)))
        if features.shape != (len(part), replica.dim):
            raise EncoderError(
                f"{self._what} returned an array of shape {features.shape} for {len(part)} "
                f"images; it must be ({len(part)}, {replica.dim})"
            )
        return features[:count]

    def _stacked(self, prepared: Sequence[Any]) -> Any:
        if self._decoder is not None:
            return self._decoder.stack(prepared)
        try:
            return np.stack(prepared)
        except ValueError as error:
            raise EncoderError(
                f"{self._what} prepares images in different shapes ({error}); it must give the "
                "same for every image"
            ) from error


def _whole(jpeg: Jpeg, _: object) -> Image.Image:
    return decode(jpeg.data)


def _give_up(futures: Iterable[Future[Any]]) -> None:
    """Cancel what has not begun, and wait for the rest."""
    wait([future for future in futures if not future.cancel()])
