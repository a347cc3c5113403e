"""Images to vectors without a store: loaded and prepared in threads, encoded in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from imgsim_assets.encoders.encoder import (
    Encoder,
    content_rule,
    default_batch_size,
    fingerprint,
    gpu_decodable_jpeg,
    load_encoder,
    min_decode_size,
    needs_loading,
)
from imgsim_assets.encoders.engine import EncodedBatch, Engine, FailedImage
from imgsim_assets.encoders.recorded import (
    load_recorded,
    require_named_factory,
    require_named_program,
)
from imgsim_assets.encoders.settings import AUTO, FP32, EncoderSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.images.content import ContentRule
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.jpeg import Jpeg
from imgsim_assets.images.orientation import UPRIGHT, Orientation
from imgsim_assets.invalid_values import listed_problems
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.search.failures import Failure
from imgsim_assets.search.image_ref import ImageDigests, ImageRef, file_digest, load_rgb, size_of
from imgsim_assets.search.num_gpus import preferred_gpus
from imgsim_assets.similarity.cosine import Floats

_VECTORS = "the model's vectors"


@dataclass(frozen=True)
class Embeddings:
    """The vectors of some inputs.

    Attributes:
        positions: (n,) int64, the inputs that have a vector, ascending.
        vectors: (n, d) float32.
        digests: the digests of these inputs.
        failures: the inputs without a vector.
    """

    positions: NDArray[np.int64]
    vectors: Floats
    digests: Sequence[ImageDigests]
    failures: Sequence[Failure]

    def take(self, rows: NDArray[np.int64]) -> Embeddings:
        """Those at some of the n rows; the failures stay."""
        digests = [self.digests[row] for row in rows.tolist()]
        return Embeddings(self.positions[rows], self.vectors[rows], digests, self.failures)


class Embedder:
    """An encoder that is loaded with the first image.

    Args:
        settings: the encoder.
        normalize: whether vectors get length 1; else they are as the encoder returns them.
        fingerprint: the fingerprint of the encoder of existing vectors. None takes that of the
            loaded encoder, which is None for a custom encoder without a declared version.
        factory: the factory that the caller has named; see `recorded.require_named_factory`.
        weights: the weights file that the caller has named; see `recorded.require_named_program`.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        *,
        normalize: bool = True,
        fingerprint: str | None = None,
        factory: str | None = None,
        weights: str | None = None,
    ) -> None:
        self.settings = settings
        self.normalize = normalize
        self.fingerprint = fingerprint
        self._factory = factory
        self._weights = weights
        self._encoder: Encoder | None = None
        self._engine: Engine | None = None
        self._engine_batch_size: int | None = None

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded on the devices that its settings or `set_num_gpus` name.

        Raises:
            EncoderError: when it cannot be loaded.
            SettingsError: when it is made by a factory that the caller has not named.
            StoreError: when it is not the encoder of the existing vectors.
        """
        if self._encoder is None:
            settings = self.settings
            require_named_factory(settings, self._factory, _VECTORS)
            require_named_program(settings, self._weights, _VECTORS)
            if settings.device == "auto" and settings.num_gpus == -1:
                settings = settings.model_copy(update={"num_gpus": preferred_gpus()})
            if settings.precision == AUTO:  # A store resolves it; without one it is fp32.
                settings = settings.model_copy(update={"precision": FP32})
            if self.fingerprint is None:
                if not needs_loading(settings):
                    self.fingerprint = fingerprint(settings)
                self._encoder = load_encoder(settings)
            else:
                self._encoder = load_recorded(
                    settings, self.fingerprint, _VECTORS, factory=self._factory
                )
        return self._encoder

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Encode n texts: (n, d) float32, of length 1 if the vectors of images are.

        Raises:
            SettingsError: when the encoder has no text tower.
        """
        encoder = self.encoder
        encode_text = getattr(encoder, "encode_text", None)
        if encode_text is None or not getattr(encoder, "has_text", True):
            raise SettingsError(
                f"text: the encoder {self.settings.describe()} cannot encode texts; use one with a "
                "text tower, such as open_clip/ViT-B-32/laion2b_s34b_b79k"
            )
        features: Floats = encode_text(texts)
        if not self.normalize:
            return features
        norms = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
        return np.asarray(features / norms, np.float32)

    def embed(
        self,
        images: Sequence[ImageRef],
        *,
        known_vectors: Mapping[str, Floats] | None = None,
        orientation: Orientation = UPRIGHT,
        batch_size: int | None = None,
        log: Log = silent,
    ) -> Embeddings:
        """Encode images; an image that cannot be encoded is a failure, not an error.

        Args:
            images: what to encode.
            known_vectors: vectors by ImageDigests digest; an upright image with one of these
                digests is not encoded again.
            orientation: applied to every image before it is encoded.
            batch_size: images per forward pass; default by the device.
            log: gets progress lines.

        Raises:
            SettingsError: for a wrong batch size.
            EncoderError: when the encoder cannot be loaded.
        """
        if batch_size is not None and batch_size < 1:
            raise SettingsError(f"batch_size is {batch_size}; it must be at least 1")
        rule = content_rule(self.settings)
        call = _EmbedCall(self.encoder, rule, images, known_vectors or {}, orientation)
        engine = self._engine_for(batch_size)
        with (
            Progress("embedding", len(images), log) as progress,
            closing(engine.run(range(len(images)), call.load, call.check)) as results,
        ):
            for result in results:
                if isinstance(result, FailedImage):
                    call.add_error(result.key, result.error)
                    progress.advance()
                else:
                    call.add_features(result, normalize=self.normalize)
                    progress.advance(len(result.keys))
        return call.embeddings()

    def _engine_for(self, batch_size: int | None) -> Engine:
        """The engine of the last call, unless its batch size differs."""
        if self._engine is None or self._engine_batch_size != batch_size:
            size = batch_size or default_batch_size(self.settings, self.encoder)
            label = f"encoder {self.settings.describe()}"
            self._engine = Engine(self.encoder, size, label=label)
            self._engine_batch_size = batch_size
        return self._engine


class _KnownVectorError(ImageError):
    """Skips the forward pass of an image whose vector is known."""

    def __init__(self, vector: Floats) -> None:
        super().__init__("known", "the vector is known")
        self.vector = vector


class _EmbedCall:
    """The images of one `embed` call and their outcomes."""

    def __init__(
        self,
        encoder: Encoder,
        rule: ContentRule,
        images: Sequence[ImageRef],
        known_vectors: Mapping[str, Floats],
        orientation: Orientation,
    ) -> None:
        self._encoder = encoder
        self._rule = rule
        self._images = images
        self._known_vectors = known_vectors
        self._orientation = orientation
        self._digests: dict[int, ImageDigests] = {}
        self._vectors: dict[int, Floats] = {}
        self._failures: list[Failure] = []

    def load(self, position: int) -> Image.Image | Jpeg:
        image, digests = self._read(self._images[position])
        self._digests[position] = digests
        if self._orientation == UPRIGHT:
            for digest in (digests.sha256, digests.pixels):
                if digest is not None and digest in self._known_vectors:
                    raise _KnownVectorError(self._known_vectors[digest])
        return image if isinstance(image, Jpeg) else self._orientation.apply(image)

    def _read(self, ref: ImageRef) -> tuple[Image.Image | Jpeg, ImageDigests]:
        """Load an image in the same way as the embeddings stage."""
        content = ref.open()
        self._rule.require_size(*size_of(content))
        if isinstance(content, bytes) and self._orientation == UPRIGHT:
            jpeg = gpu_decodable_jpeg(content, self._encoder)
            if jpeg is not None:
                return jpeg, ImageDigests(file_digest(content))
        return load_rgb(content, min_decode_size(self._encoder))

    def check(self, _: int, image: Image.Image) -> None:
        """Raise ImageError for an image without content."""
        self._rule.require_content(image)

    def add_error(self, position: int, error: ImageError) -> None:
        if isinstance(error, _KnownVectorError):
            self._vectors[position] = error.vector
        else:
            self._fail(position, error.status, error.detail)

    def add_features(self, encoded: EncodedBatch[int], *, normalize: bool) -> None:
        features = encoded.features.astype(np.float64)
        lengths = np.sqrt(np.square(features).sum(axis=1))
        for position, row, length in zip(encoded.keys, features, lengths, strict=True):
            if not np.isfinite(length):
                self._fail(position, "not_finite", "the features of this image overflow")
            elif normalize and length == 0:
                self._fail(
                    position, "zero_vector", "the encoder returned a zero vector for this image"
                )
            else:
                self._vectors[position] = (row / length if normalize else row).astype(np.float32)

    def _fail(self, position: int, status: str, detail: str) -> None:
        name = self._images[position].name
        self._failures.append(Failure(position, name, status, detail))

    def embeddings(self) -> Embeddings:
        """All outcomes, in the order of the images."""
        positions = sorted(self._vectors)
        vectors = [self._vectors[position] for position in positions]
        return Embeddings(
            np.array(positions, dtype=np.int64),
            np.stack(vectors) if vectors else np.empty((0, 0), np.float32),
            [self._digests[position] for position in positions],
            sorted(self._failures, key=lambda failure: failure.position),
        )


def parse_encoder(encoder: str | EncoderSettings | Mapping[str, Any]) -> EncoderSettings:
    """An encoder's settings from its name, a mapping, or settings; SettingsError if invalid."""
    if isinstance(encoder, EncoderSettings):
        return encoder
    values = {"name": encoder} if isinstance(encoder, str) else dict(encoder)
    try:
        return EncoderSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"encoder: {listed_problems(error)}") from error
