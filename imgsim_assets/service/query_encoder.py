"""Encodes the images and texts of queries, one at a time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from imgsim_assets.encoders.recorded import encoder_from_commit
from imgsim_assets.errors import SettingsError
from imgsim_assets.service.errors import OverloadedError

if TYPE_CHECKING:
    from imgsim_assets.encoders.settings import EncoderSettings
    from imgsim_assets.search.embedder import Embedder
    from imgsim_assets.service.catalog_index import CatalogIndex
    from imgsim_assets.similarity.cosine import Floats

T = TypeVar("T")
# Encoders that stay loaded: one for each kind of vectors of the store.
_MAX_ENCODERS = 4


class QueryEncoder:
    """The encoders of a store's vectors, each loaded with its first query.

    A forward pass uses every core, so that queries wait for each other in a line of limited
    length. An encoder whose code the store names (a factory, a TorchScript or ONNX file) is never
    loaded: see docs/trust.md.

    Args:
        max_waiting: Queries that may wait; more are refused.
    """

    def __init__(self, max_waiting: int) -> None:
        self._thread = ThreadPoolExecutor(1, "encode")
        self._max_waiting = max_waiting
        self._embedders: dict[str, Embedder] = {}
        self.waiting = 0

    def close(self) -> None:
        """Stop accepting queries."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def encode_images(self, index: CatalogIndex, images: Sequence[bytes]) -> Floats:
        """The unit vectors (n, dim) of images, as the encoder of an index makes them.

        An image that the index has is not encoded again.

        Raises:
            SettingsError: An image cannot be decoded, or the encoder is not loaded.
            EncoderError: The encoder cannot be loaded.
            OverloadedError: Too many queries wait.
        """
        known = [_known_vector(index, image) for image in images]
        missing = [number for number, vector in enumerate(known) if vector is None]
        if missing:
            chosen = [images[number] for number in missing]
            encoded = await self._call(lambda: self._encode(index, chosen))
            for number, vector in zip(missing, encoded, strict=True):
                known[number] = vector
        return np.stack([vector for vector in known if vector is not None])

    async def encode_text(self, index: CatalogIndex, text: str) -> Floats:
        """The unit vector (1, dim) of a text.

        Raises:
            SettingsError: The encoder has no text tower, or is not loaded.
            EncoderError: The encoder cannot be loaded.
            OverloadedError: Too many queries wait.
        """
        return await self._call(lambda: self._embedder(index).embed_texts([text]))

    async def _call(self, encode: Callable[[], T]) -> T:
        if self.waiting >= self._max_waiting:
            raise OverloadedError("too many images wait for the encoder; try again in a second")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, encode)
        finally:
            self.waiting -= 1

    def _encode(self, index: CatalogIndex, images: Sequence[bytes]) -> Floats:
        from imgsim_assets.search.image_ref import ImageRef

        refs = [ImageRef(f"image {n}", partial(bytes, data)) for n, data in enumerate(images)]
        embeddings = self._embedder(index).embed(refs)
        for failure in embeddings.failures:
            raise SettingsError(f"{failure.name}: {failure.status}: {failure.detail}")
        return embeddings.vectors

    def _embedder(self, index: CatalogIndex) -> Embedder:
        from imgsim_assets.search.embedder import Embedder

        embedder = self._embedders.get(index.fingerprint)
        if embedder is None:
            settings = encoder_from_commit(index.commit)
            _require_no_code(settings)
            embedder = Embedder(settings, fingerprint=index.fingerprint)
            while len(self._embedders) >= _MAX_ENCODERS:
                self._embedders.pop(next(iter(self._embedders)))
            self._embedders[index.fingerprint] = embedder
        return embedder


def _require_no_code(settings: EncoderSettings) -> None:
    if settings.factory is not None or settings.runs_code_of_a_file:
        raise SettingsError(
            f"the encoder {settings.describe()} is code that the store names, which this service "
            "does not run; query by id or by vector"
        )


def _known_vector(index: CatalogIndex, image: bytes) -> Floats | None:
    positions = index.positions_with(hashlib.sha256(image).hexdigest())
    return index.index.vectors_at(positions[:1])[0] if len(positions) else None
