"""A store to browse: hostile text, several statuses, shared images, a graph, groups and matches."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.stage import ItemsStage
from imgsim_assets.download.ledger.table import ledger_frame, ledger_table
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.settings import (
    CrossCatalogGroupSettings,
    GraphSettings,
    GroupSettings,
)
from imgsim_assets.storage.commit import PendingCommit, append_to_shard
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, Files, indexed, tiny

# Ids and texts of someone who tries to get into the page.
SCRIPT = "<script>document.title = 'owned'</script>"
HOSTILE_ID = f"../{SCRIPT}\"'?&#\u202egpj"
HOSTILE_URL = "javascript:alert(1)"
PASSWORD = "hunter2"
LOGO = tiny(99)
ITEMS = 70
RETRY_AT = datetime(2031, 5, 4, 3, 2, tzinfo=UTC)


def build(folder: Path) -> Store:
    """A store with the catalogs `products` and `suppliers`, of which everything is computed."""
    store = Store.open(folder / "store")
    catalog(store, folder, "products", _products())
    catalog(store, folder, "suppliers", {f"s{n}": tiny(500 + n, like=n) for n in range(8)})
    _time_out(store, "products", "x1")
    GraphStage(store, "products", GraphSettings(k=4)).run()
    GroupStage(store, "products", GroupSettings(threshold=0.9)).run()
    across = CrossCatalogGroupSettings(threshold=0.9)
    GroupStage(store, "both", across, catalogs=["products", "suppliers"]).run()
    pair = MatchMatrixSettings(name="pair", left="products", right="suppliers", threshold=0.9)
    MatchPipeline(store, pair).run()
    return store


def _products() -> dict[str, Files]:
    images: dict[str, Files] = {f"p{number:02d}": tiny(number) for number in range(ITEMS - 4)}
    copies = {"p01": tiny(601, like=0), "p02": tiny(602, like=0)}
    logos: dict[str, Files] = {"p10": [tiny(10), LOGO], "p11": [tiny(11), LOGO], "p12": LOGO}
    failed: dict[str, Files] = {"x1": None, "x2": [None, tiny(70)], "x3": tiny(72)[:80]}
    return {**images, **copies, **logos, **failed, HOSTILE_ID: tiny(71)}


def _time_out(store: Store, name: str, item: str) -> None:
    """Let another image of an item have timed out, to be requested again."""
    table = ledger_table(store, name)
    row = {
        "id": item,
        "image": 1,
        "url": f"https://images.example/{item}/1",
        "status": "timeout",
        "retryable": True,
        "attempts": 2,
        "next_retry_at": RETRY_AT,
        "fetched_at": RETRY_AT,
    }
    added = table.write_rows(ledger_frame([row]))
    table.commit(lambda base: PendingCommit(append_to_shard(base, Shard(0, 1), [added])))


def catalog(
    store: Store,
    folder: Path,
    name: str,
    images: Mapping[str, Files],
    encoder: EncoderSettings = THUMBNAIL,
) -> None:
    """A catalog with the items table of a list, as far as its index."""
    rows = pl.DataFrame(
        {
            "id": list(images),
            "url": [f"https://images.example/{number}.png" for number in range(len(images))],
            "title": [SCRIPT if item == HOSTILE_ID else f"title of {item}" for item in images],
            "price": [float(number) for number in range(len(images))],
            "seller": [f"https://user:{PASSWORD}@shop.example/" for _ in images],
            "link": [HOSTILE_URL for _ in images],
            SCRIPT: ["a" * 5000 for _ in images],
        }
    )
    rejected = rows.head(1).with_columns(pl.lit("").alias("id"))
    pl.concat([rows, rejected]).write_csv(folder / f"{name}.csv")
    source = SourceSettings(path=f"{name}.csv", id="id", url="url")
    ItemsStage(store, name, source, shards=1, project_root=folder).run()
    indexed(store, name, images, encoder)
