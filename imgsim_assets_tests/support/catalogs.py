"""Catalogs without a download: images go straight into the blobs and the ledger."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from PIL import Image

from imgsim_assets.download.ledger.table import PROPERTIES, ledger_frame, ledger_table, utc_now
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingReport, EmbeddingStage
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
)


def fill(
    store: Store, name: str, images: Mapping[str, bytes | None], shards: int = 1
) -> list[Shard]:
    """Let a catalog's ledger hold exactly these items: file bytes by id, None is a 404."""
    split = [Shard(index, shards) for index in range(shards)]
    for shard in split:
        fill_shard(store, name, images, shard)
    return split


def fill_shard(store: Store, name: str, images: Mapping[str, bytes | None], shard: Shard) -> None:
    """The same for the items of one shard alone."""
    for data in images.values():
        if data is not None:
            store.blobs.put(data)
    store.blobs.flush()
    table = ledger_table(store, name)
    ids = sorted(item for item in images if shard_index(item, shard.count) == shard.index)
    rows = table.write_rows(ledger_frame([_ledger_row(item, images[item]) for item in ids]))
    table.commit(partial(_draft, shard, rows))


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
    images: Mapping[str, bytes | None],
    encoder: EncoderSettings = THUMBNAIL,
) -> None:
    """Bring a catalog of exactly these images as far as its index, through the stages."""
    embed_shards(store, name, encoder, fill(store, name, images))
    IndexStage(store, name).run()


def sha256_of(data: bytes) -> str:
    """The name of a blob."""
    return hashlib.sha256(data).hexdigest()


def tiny(seed: int, *, like: int | None = None) -> bytes:
    """An 8 x 8 PNG of noise, whose pixels are its vector under the thumbnail encoder.

    With `like`, it is a noisy copy of the image of that seed.
    """
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3))
    if like is not None:
        original = np.random.default_rng(like).integers(0, 256, (8, 8, 3))
        pixels = np.clip(original + (pixels - 128) // 4, 0, 255)
    return _png(pixels.astype(np.uint8), compress_level=6)


def turned(degrees: float) -> bytes:
    """An 8 x 8 PNG whose vector under the thumbnail encoder is turned by about this angle."""
    signs = np.ones((8, 8, 3))
    signs[:, ::2] = -1
    angle = np.radians(degrees)
    pixels = 127.5 + 90 * (np.cos(angle) * signs + np.sin(angle) * signs.transpose(1, 0, 2))
    return _png(np.round(pixels).astype(np.uint8), compress_level=6)


def repacked(png: bytes) -> bytes:
    """The same pixels in other bytes."""
    return _png(np.asarray(Image.open(io.BytesIO(png))), compress_level=0)


def _png(pixels: np.ndarray, compress_level: int) -> bytes:
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, "PNG", compress_level=compress_level)
    return body.getvalue()


def _draft(shard: Shard, rows: DataFile, base: Commit | None) -> PendingCommit:
    return PendingCommit(replace_shard(base, shard, [rows]), {"items": 1}, PROPERTIES)


def _ledger_row(item: str, data: bytes | None) -> dict[str, object]:
    row: dict[str, object] = {
        "id": item,
        "url": f"https://images.example/{item}",
        "retryable": False,
        "fetched_at": utc_now(),
    }
    if data is None:
        return {**row, "status": "http_404", "attempts": 1}
    return {**row, "status": OK, "attempts": 0, "sha256": sha256_of(data), "bytes": len(data)}
