"""The images of archives, their classes and vectors, computed once for each encoder."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.image_split import Part, image_class, image_names
from imgsim_assets.encoders.encoder import Encoder, load_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.images.decode import decode

Floats = NDArray[np.float32]
_BATCH = 16


@dataclass(frozen=True)
class Pool:
    """The images of one part of an archive.

    Attributes:
        archive: the tar.
        names: names of the images, sorted.
        vectors: (n, d) float32 unit rows.
    """

    archive: Path
    names: Sequence[str]
    vectors: Floats

    @property
    def classes(self) -> NDArray[np.str_]:
        """The class of each image, (n,)."""
        return np.array([image_class(name) for name in self.names])

    def images(self, rows: Iterable[int]) -> Iterator[Image.Image]:
        """Some images, decoded."""
        with tarfile.open(self.archive) as opened:
            for row in rows:
                yield _decoded(opened, self.names[row])


@dataclass(frozen=True)
class CachedEncoder:
    """An encoder whose vectors are kept as .npy files in a folder."""

    settings: EncoderSettings
    folder: Path

    def vectors(self, name: str, images: Callable[[], Iterable[Image.Image]]) -> Floats:
        """The unit vectors of images, from `<folder>/<name>.<encoder>.npy` if it exists."""
        path = self.folder / f"{name}.{self.settings.name.replace('/', '_')}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(path, embed(load_encoder(self.settings), images()))
        vectors: Floats = np.load(path)
        return vectors

    def pool(self, archive: Path, part: Part | None = None) -> Pool:
        """The images of an archive, or of one part of it, with their vectors."""
        every = [*image_names(archive, "tuning"), *image_names(archive, "reporting")]
        names = sorted(every)

        def images() -> Iterator[Image.Image]:
            with tarfile.open(archive) as opened:
                yield from (_decoded(opened, name) for name in names)

        vectors = self.vectors(archive.stem, images)
        if part is None:
            return Pool(archive, names, vectors)
        chosen = set(image_names(archive, part))
        rows = [row for row, name in enumerate(names) if name in chosen]
        return Pool(archive, [names[row] for row in rows], vectors[rows])


def embed(encoder: Encoder, images: Iterable[Image.Image]) -> Floats:
    """The unit vectors (n, d) of images."""
    prepared = (encoder.prepare(image) for image in images)
    rows = []
    while batch := list(islice(prepared, _BATCH)):
        raw = encoder.encode(np.stack(batch)).astype(np.float64)
        rows.append(raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12))
    return np.concatenate(rows).astype(np.float32)


def _decoded(opened: tarfile.TarFile, name: str) -> Image.Image:
    file = opened.extractfile(name)
    if file is None:
        raise FileNotFoundError(f"{name} is no file of the archive")
    return decode(file.read())
