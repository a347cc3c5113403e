"""Images to features: decoding and encoding overlap, in bounded memory.

Threads, one for each core, prepare images in order. Batches of them go to the encoder's replicas:
on a CPU in the same threads, on GPUs in one thread each. Where the encoder has a JPEG decoder, the
threads pass JPEGs on, and their batch is decoded before it is encoded. Results come back in the
order of the keys.

An image's vector depends on the image alone: batches of an encoder that asks for it are padded to
one size, so that neither the other images nor the number of threads select other kernels.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.encoder import Decoder, Encoder
from imgsim_assets.encoders.hardware import is_out_of_memory, usable_cores
from imgsim_assets.encoders.timings import StageTimings
from imgsim_assets.errors import EncoderError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.jpeg import Jpeg

K = TypeVar("K")
# From a key and its decoded image; raises ImageError for one that is not to be encoded.
Check = Callable[[K, Image.Image], None]
# Batches that wait for a replica, beyond those being encoded.
_WAITING_BATCHES = 1
# Status of an image that the encoder cannot prepare. If the encoder fails on this many
# images, from the first one on, the encoder is at fault.
PREPROCESS_ERROR = "preprocess_error"
_MAX_PREPROCESS_ERRORS = 16


@dataclass(frozen=True)
class EncodedBatch(Generic[K]):
    """Images and their features (n, dim), not normalized."""

    keys: Sequence[K]
    features: NDArray[Any]


@dataclass(frozen=True)
class FailedImage(Generic[K]):
    """An image that has no features, and why."""

    key: K
    error: ImageError


@dataclass(frozen=True)
class _PreprocessError:
    """What the encoder raised when it prepared an image."""

    error: Exception


# What a batch, and an image on its way into one, can become.
_Result = EncodedBatch[K] | FailedImage[K]
_Ready = NDArray[Any] | Jpeg
_Prepared = _Ready | ImageError | _PreprocessError


class Engine:
    """Runs one encoder over any number of images in bounded memory.

    The threads live as long as the engine: the C library keeps freed memory for the thread that
    freed it, so that new threads in every run would take ever more memory.

    Args:
        encoder: the encoder; see `encoder.Encoder` for what it may offer.
        batch_size: images per forward pass; halved where memory does not hold them.
        label: names the encoder in messages.
        cores: number of decoding threads, and of replicas of an encoder on the CPU; 0 for all.

    Attributes:
        timings: of the runs so far; may be replaced between runs.
        device: names of the devices that encode.
    """

    def __init__(
        self, encoder: Encoder, batch_size: int, *, label: str = "the encoder", cores: int = 0
    ) -> None:
        self.batch_size = batch_size
        self.timings = StageTimings()
        self.encoder = encoder
        self._label = label
        self._cores = cores or usable_cores()
        self._decoder: Decoder | None = getattr(encoder, "jpeg_decoder", None)
        self._decoder_lock = threading.Lock()
        self._can_prepare = False
        replicate = getattr(encoder, "replicas", None)
        self._replicas: Sequence[Encoder] = replicate(self._cores) if replicate else [encoder]
        self._idle_replicas: SimpleQueue[Encoder] = SimpleQueue()
        for replica in self._replicas:
            self._idle_replicas.put(replica)
        self._pads_batches = bool(getattr(encoder, "fixed_batch", False))
        devices = [str(getattr(replica, "device", "cpu")) for replica in self._replicas]
        self.device = ", ".join(dict.fromkeys(devices))
        # Threads start when work finds none idle, and end with their pool.
        init = getattr(encoder, "use_one_thread", None)
        self._decode_pool = ThreadPoolExecutor(self._cores, "decode", init)
        if self.device == "cpu" and len(self._replicas) == self._cores:
            # With more threads than cores, their data would evict each other's from the caches.
            self._encode_pool = self._decode_pool
        else:
            self._encode_pool = ThreadPoolExecutor(len(self._replicas), "encode", init)
        self._clock = time.thread_time if self.device == "cpu" else time.perf_counter

    def run(
        self,
        keys: Sequence[K],
        load: Callable[[K], Image.Image | Jpeg],
        check: Check[K] | None = None,
    ) -> Generator[_Result[K], None, None]:
        """Load and encode images, and yield their features in order, batch by batch.

        Closing the generator, or an error, cancels work that has not started and waits for the
        rest.

        Args:
            keys: one for each image.
            load: gives the image of a key; called from several threads. It returns a Jpeg only
                for an encoder with a decoder (see `encoder.gpu_decodable_jpeg`). When it raises
                ImageError, or the encoder fails to prepare the image, that image alone fails.
            check: looks at each image that was decoded, before it is prepared, like `load`. An
                image that the encoder's own decoder decodes has no single color, and is not seen.

        Raises:
            EncoderError: when the encoder misbehaves, can prepare no image at all, or does not
                fit into memory with a single image.
        """
        under_way: deque[Future[Sequence[_Result[K]]]] = deque()
        check = check or _no_check
        with closing(self._prepared(keys, load, check)) as prepared:
            try:
                yield from self._results(prepared, under_way, check)
            finally:
                _cancel(under_way)

    def _results(
        self,
        prepared: Iterable[tuple[K, _Prepared]],
        under_way: deque[Future[Sequence[_Result[K]]]],
        check: Check[K],
    ) -> Generator[_Result[K], None, None]:
        max_under_way = len(self._replicas) + _WAITING_BATCHES
        batch: list[tuple[K, _Ready]] = []
        for key, result in self._check_preprocessing(prepared):
            if isinstance(result, ImageError):
                yield FailedImage(key, result)
                continue
            batch.append((key, result))
            if len(batch) < self.batch_size:
                continue
            under_way.append(self._encode_pool.submit(self._encode_batch, batch, check))
            batch = []
            while under_way and (under_way[0].done() or len(under_way) > max_under_way):
                yield from under_way.popleft().result()
        if batch:
            under_way.append(self._encode_pool.submit(self._encode_batch, batch, check))
        while under_way:
            yield from under_way.popleft().result()

    # ---- decoding -------------------------------------------------------------------

    def _prepared(
        self, keys: Sequence[K], load: Callable[[K], Image.Image | Jpeg], check: Check[K]
    ) -> Generator[tuple[K, _Prepared], None, None]:
        """Every key with its prepared image, in order; prepares a bounded number in advance."""
        pending: deque[Future[tuple[K, _Prepared]]] = deque()
        remaining = iter(keys)
        max_pending = 2 * self.batch_size + 2 * self._cores
        try:
            while True:
                pending.extend(
                    self._decode_pool.submit(self._load_and_prepare, key, load, check)
                    for key in islice(remaining, max_pending - len(pending))
                )
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            _cancel(pending)

    def _load_and_prepare(
        self, key: K, load: Callable[[K], Image.Image | Jpeg], check: Check[K]
    ) -> tuple[K, _Prepared]:
        started = time.thread_time()
        try:
            image = load(key)
            if isinstance(image, Image.Image):
                check(key, image)
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
            # A factory's transform may raise anything on an image that it does not expect.
            return key, _PreprocessError(error)
        self.timings.add(
            images=1, decode=decoded - started, preprocess=time.thread_time() - decoded
        )
        return key, prepared

    def _check_preprocessing(
        self, prepared: Iterable[tuple[K, _Prepared]]
    ) -> Iterator[tuple[K, _Ready | ImageError]]:
        """Turn preprocessing errors into image errors; raise if the encoder can prepare nothing.

        Errors wait for the first image that can be prepared. Where none comes, a gray image
        decides whether the encoder is the cause.
        """
        errors: list[tuple[K, Exception]] = []
        for key, result in prepared:
            if isinstance(result, _PreprocessError):
                errors.append((key, result.error))
                if not self._can_prepare and len(errors) > _MAX_PREPROCESS_ERRORS:
                    raise self._cannot_prepare(result.error)
            else:
                self._can_prepare |= not isinstance(result, ImageError)
                yield key, result
            if self._can_prepare:
                yield from ((failed, self._image_error(error)) for failed, error in errors)
                errors.clear()
        if errors:
            try:
                self.encoder.prepare(Image.new("RGB", (512, 512), (128, 128, 128)))
            except Exception as error:
                raise self._cannot_prepare(error) from error
            yield from ((failed, self._image_error(error)) for failed, error in errors)

    def _image_error(self, error: Exception) -> ImageError:
        return ImageError(
            PREPROCESS_ERROR, f"{self._label} cannot prepare it ({type(error).__name__}: {error})"
        )

    def _cannot_prepare(self, error: Exception) -> EncoderError:
        encoder_error = EncoderError(
            f"{self._label} cannot prepare any image ({type(error).__name__}: {error}); correct "
            "its 'prepare', or the transform of its factory"
        )
        encoder_error.__cause__ = error
        return encoder_error

    # ---- encoding -------------------------------------------------------------------

    def _encode_batch(
        self, batch: Sequence[tuple[K, _Ready]], check: Check[K]
    ) -> Sequence[_Result[K]]:
        ready, failed = self._decode_jpegs(batch, check)
        if not ready:
            return failed
        replica = self._idle_replicas.get()
        started = self._clock()
        try:
            features = self._encode_in_memory(replica, [prepared for _, prepared in ready])
        finally:
            self._idle_replicas.put(replica)
        self.timings.add(forward=self._clock() - started)
        return [*failed, EncodedBatch([key for key, _ in ready], features)]

    def _decode_jpegs(
        self, batch: Sequence[tuple[K, _Ready]], check: Check[K]
    ) -> tuple[list[tuple[K, Any]], list[FailedImage[K]]]:
        """The batch with its JPEGs decoded and prepared, and the images that fail."""
        decoded = iter(
            self._decode_on_device([item for _, item in batch if isinstance(item, Jpeg)])
        )
        ready: list[tuple[K, Any]] = []
        failed: list[FailedImage[K]] = []
        for key, item in batch:
            prepared = next(decoded) if isinstance(item, Jpeg) else item
            if isinstance(item, Jpeg) and prepared is None:
                # The decoder of all other files gives it a status.
                _, prepared = self._load_and_prepare(key, partial(_decode_on_cpu, item), check)
            if isinstance(prepared, _PreprocessError):
                prepared = self._image_error(prepared.error)
            if isinstance(prepared, ImageError):
                failed.append(FailedImage(key, prepared))
            else:
                ready.append((key, prepared))
        return ready, failed

    def _decode_on_device(self, jpegs: Sequence[Jpeg]) -> Sequence[Any | None]:
        if self._decoder is None or not jpegs:
            return []
        with self._decoder_lock:
            started = self._clock()
            decoded = self._decoder.decode(jpegs)
            images = sum(each is not None for each in decoded)
            self.timings.add(images=images, decode=self._clock() - started)
        return decoded

    def _encode_in_memory(self, replica: Encoder, batch: Sequence[Any]) -> NDArray[Any]:
        """Features of a batch, in smaller parts where memory does not hold it at once."""
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
                        f"out of memory: {self._label} does not fit with one image ({error}); "
                        "use a smaller encoder, or another 'device'"
                    ) from error
                # Another replica may have halved it already.
                self.batch_size = min(self.batch_size, size // 2)
            release = getattr(replica, "release_memory", None)
            if release is not None:
                release()

    def _encode(self, replica: Encoder, part: Sequence[Any], size: int) -> NDArray[Any]:
        count = len(part)
        if self._pads_batches:
            part = [*part, *[part[-1]] * (size - count)]
        features = np.asarray(replica.encode(self._stack(part)))
        if features.shape != (len(part), replica.dim):
            raise EncoderError(
                f"{self._label} returned an array of shape {features.shape} for {len(part)} "
                f"images; it must be ({len(part)}, {replica.dim})"
            )
        return features[:count]

    def _stack(self, prepared: Sequence[Any]) -> Any:
        if self._decoder is not None:
            return self._decoder.stack(prepared)
        try:
            return np.stack(prepared)
        except ValueError as error:
            raise EncoderError(
                f"{self._label} prepares images in different shapes ({error}); it must give the "
                "same for every image"
            ) from error


def _no_check(_: object, __: Image.Image) -> None:
    """Every image is encoded."""


def _decode_on_cpu(jpeg: Jpeg, _: object) -> Image.Image:
    return decode(jpeg.data)


def _cancel(futures: Iterable[Future[Any]]) -> None:
    """Cancel what has not started, and wait for the rest."""
    wait([future for future in futures if not future.cancel()])
