"""Images that are not compared because a list names them, or an image that is as near to them."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.encoder import default_batch_size, min_decode_size
from imgsim_assets.encoders.engine import EncodedBatch, Engine
from imgsim_assets.encoders.recorded import (
    FINGERPRINT,
    encoder_from_commit,
    load_recorded,
    require_named_program,
)
from imgsim_assets.encoders.vector_rows import VectorRows, concat_rows
from imgsim_assets.encoders.vectors import REBUILDS, VectorTable
from imgsim_assets.errors import SettingsError
from imgsim_assets.images.decode import decode
from imgsim_assets.similarity.calibration import CatalogItems
from imgsim_assets.similarity.cosine import Floats
from imgsim_assets.similarity.join import pairs_above
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.settings import IgnoreSettings
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEADERS = {"sha256", "path", "image", "file"}


@dataclass(frozen=True)
class IgnoreList:
    """What a list names.

    Attributes:
        sha256: of every listed image.
        files: the listed files by their sha256, with the place in the list.
    """

    sha256: frozenset[str]
    files: Mapping[str, tuple[Path, str]]

    @property
    def digest(self) -> str:
        """What the list means, whatever the order of its lines and the names of its files."""
        return hashlib.sha256(" ".join(sorted(self.sha256)).encode()).hexdigest()


def read_ignore_list(path: str, root: Path) -> IgnoreList:
    """Read a list of images, one in the first field of each line.

    Args:
        path: a CSV or text file, relative to the root. A line has the sha256 of an image, or the
            path of an image file, relative to the root. Lines that are empty or begin with # are
            passed over, and so is a header.
        root: the project's root.

    Raises:
        SettingsError: a file is missing.
    """
    try:
        text = (root / path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"ignore: {path} cannot be read as text: {error}; give a list of images, one sha256 or "
            f"path in each line, relative to {root}"
        ) from error
    listed: set[str] = set()
    files: dict[str, tuple[Path, str]] = {}
    for line, fields in enumerate(csv.reader(text.splitlines()), start=1):
        entry = fields[0].strip() if fields else ""
        if not entry or entry.startswith("#") or (line == 1 and entry.lower() in _HEADERS):
            continue
        if _SHA256.fullmatch(entry.lower()):
            listed.add(entry.lower())
            continue
        where = f"{path} line {line}"
        file = root / entry
        if not file.is_file():
            raise SettingsError(
                f"ignore: {where}: there is no file {str(file)!r}; give the sha256 of an image, or "
                f"the path of an image file relative to {root}"
            )
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        listed.add(sha256)
        files.setdefault(sha256, (file, where))
    return IgnoreList(frozenset(listed), files)


class IgnoredImages(NamedTuple):
    """Which images are ignored.

    Attributes:
        masks: a mask (n,) for each catalog; None without a list.
        rule: a digest of what decides which images are as near to a listed one; None where only
            listed images are ignored.
    """

    masks: Sequence[NDArray[np.bool_] | None]
    rule: str | None = None


# The images of an earlier result (sha256, is_near) by the rule that decided them.
DecidedImages = Callable[[str], pl.DataFrame]


def ignored_images(
    store: Store,
    settings: IgnoreSettings | None,
    root: Path,
    catalogs: Sequence[CatalogItems],
    decided: DecidedImages,
) -> IgnoredImages:
    """Which images of some catalogs are listed, or as near to a listed one.

    Near ones are found by the vectors of listed images that are in one of the catalogs now, and
    of listed files. No vector is read where an earlier result has decided all images.

    Args:
        store: the store of the catalogs.
        settings: names the list; None for no list.
        root: the project's root.
        catalogs: catalogs with all their images, which one encoder embedded.
        decided: gives the images of an earlier result.

    Raises:
        SettingsError: a file is missing, or is not an image.
    """
    if settings is None:
        return IgnoredImages([None] * len(catalogs))
    listed = read_ignore_list(settings.list, root)
    images = [items.keys["sha256"] for _, _, items in catalogs]
    is_listed = [each.is_in(list(listed.sha256)).to_numpy() for each in images]
    if settings.min_similarity is None:
        return IgnoredImages(is_listed)
    held = pl.concat(images).unique()
    examples = held.filter(held.is_in(list(listed.sha256))).to_list()
    files = sorted(listed.files.keys() - set(examples)) if len(held) else []
    rule = _rule(store, catalogs, settings.min_similarity, [*examples, *files])
    earlier = decided(rule)
    near = earlier.filter("is_near")["sha256"].implode()
    masks = [
        mask | each.is_in(near).to_numpy() for each, mask in zip(images, is_listed, strict=True)
    ]
    undecided = [
        np.flatnonzero(~mask & ~each.is_in(earlier["sha256"].implode()).to_numpy())
        for each, mask in zip(images, masks, strict=True)
    ]
    if not any(map(len, undecided)) or not (examples or files):
        return IgnoredImages(masks, rule)
    vectors = [
        items.blocks.rows(np.flatnonzero(mask))
        for (_, _, items), mask in zip(catalogs, is_listed, strict=True)
    ]
    if files:
        vectors.append(_file_vectors(store, *catalogs[0][:2], listed, files))
    listed_vectors = np.concatenate([each for each in vectors if len(each)])
    left = JoinInput.of(listed_vectors, "the listed images")
    for (_, _, items), mask, rows in zip(catalogs, masks, undecided, strict=True):
        for start, block in items.blocks.take(rows).blocks():
            inputs = InputPair.of(left, JoinInput.of(block, "vectors"))
            _, found, _ = pairs_above(inputs, settings.min_similarity)
            mask[rows[start + found]] = True
    return IgnoredImages(masks, rule)


def _rule(
    store: Store, catalogs: Sequence[CatalogItems], min_similarity: float, examples: Sequence[str]
) -> str:
    """A digest of the listed images with a vector, and of what else decides which are near."""
    parts = [repr(min_similarity), *sorted(examples)]
    for name, commit, _ in catalogs:
        fingerprint = commit.properties[FINGERPRINT]
        rebuilds = VectorTable(store, name, fingerprint).rebuild_count
        parts += [name, fingerprint, str(rebuilds), str(commit.properties.get(REBUILDS))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _file_vectors(
    store: Store, name: str, commit: Commit, listed: IgnoreList, files: Sequence[str]
) -> Floats:
    """The vectors of listed files; a catalog keeps them beside those of its own images."""
    fingerprint = commit.properties[FINGERPRINT]
    table = VectorTable(store, name, fingerprint)
    missing = sorted(table.missing(files))
    if missing:
        table.append(_encoded(name, commit, listed, missing))
    return table.read(files).vectors


def _encoded(name: str, commit: Commit, listed: IgnoreList, missing: Sequence[str]) -> VectorRows:
    """The vectors of listed files by the encoder of a catalog."""
    settings = encoder_from_commit(commit)
    if settings.factory is not None:
        file, where = listed.files[missing[0]]
        raise SettingsError(
            f"ignore: {where}: {file} is in no catalog, and the custom encoder of {name} is loaded "
            "for catalogs only; list images of the catalogs, or set 'min_similarity: null'"
        )
    vectors = f"the vectors of {name}"
    require_named_program(settings, None, vectors)
    encoder = load_recorded(settings, commit.properties[FINGERPRINT], vectors, factory=None)
    engine = Engine(encoder, default_batch_size(settings, encoder), label=settings.describe())
    min_size = min_decode_size(encoder)

    def load(sha256: str) -> Image.Image:
        return decode(listed.files[sha256][0].read_bytes(), min_size=min_size)

    rows: list[VectorRows] = []
    with closing(engine.run(missing, load)) as results:
        for result in results:
            if not isinstance(result, EncodedBatch):
                file, where = listed.files[result.key]
                raise SettingsError(f"ignore: {where}: {file}: {result.error}; remove the line")
            features = result.features.astype(np.float64)
            norms = np.linalg.norm(features, axis=1)
            units = (features / norms[:, None]).astype(np.float32)
            rows.append(VectorRows(result.keys, units, norms.astype(np.float32)))
    return concat_rows(rows)
