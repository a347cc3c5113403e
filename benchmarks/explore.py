"""Time of the pages of Explore on a large catalog, without its images.

    python -m benchmarks.explore --items 200000 --store /tmp/explore

Builds the tables of a catalog of `--items` items with 6 carried columns, a ledger in 16 shards, a
similarity graph of 10 neighbors and 20,000 groups of two, serves them, and requests every page one
after the other: once, and then `--rounds` times.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from imgsim_assets.demo.loopback import open_loopback
from imgsim_assets.download.ledger.table import with_all_columns
from imgsim_assets.service.run import create_server, listen
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.storage.commit import Key, PendingCommit
from imgsim_assets.storage.shards import Shard, shard_indices
from imgsim_assets.storage.store import Store

_SHARDS = 16
_NEIGHBORS = 10
_FAILED = 0.03
_WORDS = np.array(
    ["red", "blue", "large", "small", "cotton", "shirt", "shoe", "bag", "lamp", "oak"]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    shutil.rmtree(options.store, ignore_errors=True)
    store = Store.open(options.store)
    build(store, options.items)
    server = create_server(store, ServeSettings(port=0))
    with listen(ServeSettings(port=0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/explore/products"
        print("| page | first ms | median ms | slowest ms |\n| --- | --- | --- | --- |")
        for name, path in _pages(options.items).items():
            first, *later = [_request_ms(url + path) for _ in range(options.rounds + 1)]
            print(f"| {name} | {first:.0f} | {statistics.median(later):.0f} | {max(later):.0f} |")
        server.should_exit = True
        thread.join()


def _pages(items: int) -> dict[str, str]:
    middle, other = _id(items // 2), _id(items - 7)
    return {
        "items, first page": "",
        "items, a page in the middle": f"?after={middle}",
        "items whose title contains a word": "?column=title&op=contains&value=lamp",
        "items of a status": "?status=http_404",
        "words in any column": "/search?q=lamp",
        "an item": f"/item?id={middle}",
        "another item": f"/item?id={other}&via={middle}",
        "groups": f"/groups?start={items // 40}",
        "failures": "/failures?start=600",
        "shared images": "/placeholders",
    }


def _request_ms(url: str) -> float:
    started = time.perf_counter()
    with open_loopback(url, timeout=120) as answer:
        answer.read()
    return (time.perf_counter() - started) * 1000


def _id(number: int) -> str:
    return f"SKU-{number:07d}"


def build(store: Store, count: int) -> None:
    """Commit the tables of a catalog, as runs would have."""
    random = np.random.default_rng(0)
    ids = pl.Series("id", [_id(number) for number in range(count)])
    # Every 50th item has the same image.
    sha256 = pl.Series(
        "sha256", [f"{number if number % 50 else 0:064x}" for number in range(count)]
    )
    title = pl.Series(
        [" ".join(words) for words in _WORDS[random.integers(0, len(_WORDS), (count, 6))]]
    )
    items = pl.DataFrame(
        {
            "id": ids,
            "url": "https://images.example/" + ids + ".jpg",
            "title": title,
            "description": title + " " + title + " " + title,
            "brand": _WORDS[random.integers(0, len(_WORDS), count)],
            "category": _WORDS[random.integers(0, len(_WORDS), count)],
            "price": random.integers(1, 9999, count) / 100,
            "stock": random.integers(0, 100, count),
        }
    )
    is_ok = pl.Series(random.random(count) >= _FAILED)
    image = pl.lit(0, pl.Int32).alias("image")
    ledger = pl.DataFrame([ids, sha256, items["url"]]).with_columns(
        image,
        pl.when(is_ok).then(pl.lit("ok")).otherwise(pl.lit("http_404")).alias("status"),
        pl.when(is_ok).then("sha256").alias("sha256"),
        pl.lit(value=False).alias("retryable"),
        pl.lit(datetime.now(UTC)).dt.cast_time_unit("ms").alias("fetched_at"),
    )
    embeddings = ledger.filter(is_ok).select("id", "image", "sha256", "status")
    _commit(store, "products/items", items, "id")
    _commit(store, "products/images", with_all_columns(ledger), ("id", "image"))
    _commit(store, "products/embeddings", embeddings, ("id", "image"))
    source = np.repeat(np.arange(count), _NEIGHBORS)
    target = random.integers(0, count, len(source))
    graph = pl.DataFrame(
        {
            "src_id": ids.gather(source),
            "dst_id": ids.gather(target),
            "similarity": random.random(len(source)),
            "rank": np.tile(np.arange(1, _NEIGHBORS + 1, dtype=np.int32), count),
            "src_sha256": sha256.gather(source),
            "dst_sha256": sha256.gather(target),
        }
    )
    _commit(store, "products/similarity_graph", graph, None)
    groups = {"catalogs": ["products"], "canonical": ["first_seen"], "keep": []}
    _commit(store, "products/duplicate_groups", _groups(ledger), None, groups)


def _groups(ledger: pl.DataFrame) -> pl.DataFrame:
    """20,000 groups of two items each."""
    rows = ledger.head(40_000).select("id", "image", pl.col("sha256").fill_null("0" * 64))
    number = pl.int_range(pl.len())
    return rows.with_columns(
        pl.col("id").gather(number // 2 * 2).alias("group_id"),
        (number % 2 == 0).alias("is_canonical"),
        (number % 2 == 0).alias("keep"),
        pl.lit(2, pl.Int32).alias("size"),
        pl.lit(1, pl.Int32).alias("bridges"),
        *(pl.lit(0.95).alias(f"{kind}similarity") for kind in ("", "min_", "mean_")),
    )


def _commit(
    store: Store, name: str, rows: pl.DataFrame, key: Key, properties: Mapping[str, Any] = {}
) -> None:
    table = store.table(name, key=key)
    if key is None:
        files = [table.write_rows(rows)]
    else:
        index = shard_indices(rows["id"], _SHARDS)
        files = [
            replace(
                table.write_rows(rows.filter(index == number)).in_shard(Shard(number, _SHARDS)),
                is_snapshot=True,
            )
            for number in range(_SHARDS)
        ]
    table.commit(lambda _: PendingCommit(files, properties=properties))


if __name__ == "__main__":
    main()
