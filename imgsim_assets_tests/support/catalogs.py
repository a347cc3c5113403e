"""Catalogs without a download: images go straight into the blobs and the ledger."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from PIL import Image

from imgsim_assets.download.ledger.table import PROPERTIES, ledger_frame, ledger_table, utc_now
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.report import EmbeddingReport
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.header import read_header
from imgsim_assets.images.limits import MAX_PIXELS
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit, replace_shard
from imgsim_assets.storage.shards import Shard, shard_index
from imgsim_assets.storage.store import Store

THUMBNAIL = EncoderSettings(
    name="thumbnail",
    factory="imgsim_assets_tests.support.encoders:thumbnail",
    version="1",
    batch_size=4,
    threshold=0.845,
)


# The file of an item, or those of its images in their order; None is a 404.
Files = bytes | Sequence[bytes | None] | None


def fill(store: Store, name: str, images: Mapping[str, Files], shards: int = 1) -> list[Shard]:
    """Let a catalog's ledger hold exactly these items, by id."""
    split = [Shard(index, shards) for index in range(shards)]
    for shard in split:
        fill_shard(store, name, images, shard)
    return split


def fill_shard(store: Store, name: str, images: Mapping[str, Files], shard: Shard) -> None:
    """The same for the items of one shard alone."""
    files = {item: _in_order(of_item) for item, of_item in sorted(images.items())}
    for data in itertools.chain.from_iterable(files.values()):
        if data is not None:
            store.blobs.put(data)
    store.blobs.flush()
    table = ledger_table(store, name)
    rows = [
        _ledger_row(item, image, data)
        for item, of_item in files.items()
        if shard_index(item, shard.count) == shard.index
        for image, data in enumerate(of_item)
    ]
    table.commit(partial(_draft, shard, table.write_rows(ledger_frame(rows))))


def _in_order(files: Files) -> Sequence[bytes | None]:
    return [files] if files is None or isinstance(files, bytes) else files


def embed_shards(
    store: Store,
    name: str,
    settings: EncoderSettings,
    shards: Sequence[Shard],
    *,
    log: Log = silent,
) -> list[EmbeddingReport]:
    """Run the embeddings stage for several shards with one encoder."""
    stage = EmbeddingStage(store, name, settings, log=log)
    return [stage.run(shard) for shard in shards]


def indexed(
    store: Store,
    name: str,
    images: Mapping[str, Files],
    encoder: EncoderSettings = THUMBNAIL,
) -> None:
    """Bring a catalog of exactly these images as far as its index, through the stages."""
    embed_shards(store, name, encoder, fill(store, name, images))
    IndexStage(store, name).run()


def sha256_of(data: bytes) -> str:
    """The name of a blob."""
    return hashlib.sha256(data).hexdigest()


def tiny(seed: int, *, like: int | None = None) -> bytes:
    """A PNG of 8 x 8 squares of noise, whose colors are its vector under the thumbnail encoder.

    With `like`, it is a noisy copy of the image of that seed.
    """
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3))
    if like is not None:
        original = np.random.default_rng(like).integers(0, 256, (8, 8, 3))
        pixels = np.clip(original + (pixels - 128) // 4, 0, 255)
    return _squares(pixels)


def turned(degrees: float) -> bytes:
    """A PNG of 8 x 8 squares; its vector under the thumbnail encoder is turned by an angle."""
    signs = np.ones((8, 8, 3))
    signs[:, ::2] = -1
    angle = np.radians(degrees)
    pixels = 127.5 + 90 * (np.cos(angle) * signs + np.sin(angle) * signs.transpose(1, 0, 2))
    return _squares(np.round(pixels))


def repacked(png: bytes) -> bytes:
    """The same pixels in other bytes."""
    return _png(np.asarray(Image.open(io.BytesIO(png))), compress_level=0)


def _squares(colors: np.ndarray) -> bytes:
    """A PNG with four pixels of each color, so that it is not below `min_side`."""
    pixels = colors.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    return _png(pixels, compress_level=6)


def _png(pixels: np.ndarray, compress_level: int) -> bytes:
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, "PNG", compress_level=compress_level)
    return body.getvalue()


def _draft(shard: Shard, rows: DataFile, base: Commit | None) -> PendingCommit:
    return PendingCommit(replace_shard(base, shard, [rows]), {"items": 1}, PROPERTIES)


def _ledger_row(item: str, image: int, data: bytes | None) -> dict[str, object]:
    row: dict[str, object] = {
        "id": item,
        "image": image,
        "url": f"https://images.example/{item}" + (f"/{image}" if image else ""),
        "retryable": False,
        "fetched_at": utc_now(),
    }
    if data is None:
        return {**row, "status": "http_404", "attempts": 1}
    return {
        **row,
        "status": OK,
        "attempts": 0,
        "sha256": sha256_of(data),
        "bytes": len(data),
        **_size(data),
    }


def _size(data: bytes) -> dict[str, int]:
    """Width and height; none for a damaged file."""
    try:
        header = read_header(data, MAX_PIXELS)
    except ImageError:
        return {}
    return {"width": header.width, "height": header.height}
