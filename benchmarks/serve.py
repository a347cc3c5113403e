"""Latency of queries to `imgsim serve` under load, its memory, and requests during reloads.

    python -m benchmarks.serve build --features features.npy --rows 200000 --store /tmp/serve
    python -m benchmarks.serve load --store /tmp/serve --catalog ivf --seconds 60
    python -m benchmarks.serve load --store /tmp/serve --catalog ivf --seconds 60 --reload-every 15

`build` draws rows from features of images (n, d), and stores them as two catalogs of one image per
item: `ivf` with inverted lists and `flat`. `load` starts the service, and lets `--clients` clients
send `--rate` queries per second together. A latency counts from the time at which its request was
due, so that a queue shows. With `--reload-every` an item of the catalog is removed or added so
often, and its index updated, while the clients go on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import polars as pl

from benchmarks.features import bootstrapped, projected
from imgsim_assets.download.ledger.table import empty_ledger, ledger_table
from imgsim_assets.encoders.recorded import ENCODER, FINGERPRINT, to_metadata
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.index.stage import IndexStage, open_index
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

_FINGERPRINT = "f" * 16
_DIM = 576
_BATCH = 20_000
_RECALL_SAMPLE = 200
_QUERIES = 2_000
_WARM_UP_S = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["build", "load", "change"])
    parser.add_argument("--store", required=True)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--nprobe", type=int, default=32)
    parser.add_argument("--catalog", default="ivf")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--reload-every", type=float)
    options = parser.parse_args()
    commands = {"build": _build, "load": _load, "change": _change}
    commands[options.command](options)


def _build(options: argparse.Namespace) -> None:
    store = Store.open(options.store)
    features = np.load(options.features)
    rows = bootstrapped(projected(features, _DIM, seed=3), options.rows, 0.05, seed=5)
    sha256 = [f"{number:064x}" for number in range(options.rows)]
    images = pl.DataFrame({"id": [f"item-{n:09d}" for n in range(options.rows)], "sha256": sha256})
    for name, index in (
        ("ivf", IndexSettings(kind="ivf", nprobe=options.nprobe)),
        ("flat", IndexSettings()),
    ):
        _write_catalog(store, name, images)
        vectors = VectorTable(store, name, _FINGERPRINT)
        for start in range(0, options.rows, _BATCH):
            part = rows[start : start + _BATCH]
            keys = sha256[start : start + _BATCH]
            vectors.append(VectorRows(keys, part, np.ones(len(part), np.float32)))
        report = IndexStage(store, name, index).run()
        _, opened = open_index(store, name)
        recall = opened.recall(sample=_RECALL_SAMPLE)
        print(f"{name}: {report.images} images, recall@10 {recall:.4f}", flush=True)


def _write_catalog(store: Store, name: str, images: pl.DataFrame) -> None:
    number = pl.int_range(pl.len())
    items = images.select(
        "id",
        pl.format("https://images.example/{}.jpg", "id").alias("url"),
        pl.format("Title of {}", "id").alias("title"),
        (number % 1000 / 10).alias("price"),
    )
    _put(store.table(f"{name}/items", key="id"), items, {})
    ledger = images.with_columns(
        pl.lit(0, pl.Int32).alias("image"), pl.lit("ok").alias("status"), items["url"]
    )
    _put(ledger_table(store, name), pl.concat([empty_ledger(), ledger], how="diagonal_relaxed"), {})
    _put_embeddings(store, name, images)


def _put_embeddings(store: Store, name: str, images: pl.DataFrame) -> None:
    embedded = images.with_columns(pl.lit(0, pl.Int32).alias("image"), pl.lit("ok").alias("status"))
    encoder = to_metadata(EncoderSettings(name="hog_color"))
    properties = {ENCODER: encoder, FINGERPRINT: _FINGERPRINT}
    _put(embeddings_table(store, name), embedded, properties, fingerprint=_FINGERPRINT)


def _put(table: Table, rows: pl.DataFrame, properties: dict[str, Any], **metadata: str) -> None:
    file = table.write_rows(rows).with_metadata(**metadata)

    def change(_: Commit | None) -> PendingCommit:
        return PendingCommit([file], properties=properties)

    table.commit(change)


def _change(options: argparse.Namespace) -> None:
    """Remove the last item, or add it again, and update the index."""
    store = Store.open(options.store)
    embeddings = embeddings_table(store, options.catalog)
    ledger = ledger_table(store, options.catalog)
    newest, all_images = embeddings.latest(), ledger.latest()
    if newest is None or all_images is None:
        raise SystemExit("build the store first")
    images = ledger.read(all_images).select("id", "sha256")
    is_whole = newest.rows == images.height
    _put_embeddings(store, options.catalog, images.head(images.height - is_whole))
    report = IndexStage(store, options.catalog).run()
    print(f"version {report.version}: {report.added} added, {report.removed} removed", flush=True)


@dataclass
class _Measured:
    """Latencies in seconds, statuses, versions of the index, and (seconds, MiB) of memory."""

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)


def _load(options: argparse.Namespace) -> None:
    _, index = open_index(Store.open(options.store), options.catalog)
    chosen = np.linspace(0, len(index) - 1, min(_QUERIES, len(index))).astype(np.int64)
    queries = index.vectors()[chosen]
    del index
    command = [sys.executable, "-m", "imgsim_assets.cli.main", "serve", "--port", "0"]
    server = subprocess.Popen(
        [*command, "--store", options.store], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        measured = asyncio.run(_measure(options, url, queries, server.pid))
    finally:
        server.terminate()
        server.wait(60)
    _report(options, measured)


async def _measure(options: argparse.Namespace, url: str, queries: Any, process: int) -> _Measured:
    bodies = [json.dumps({"vector": row, "k": 10}).encode() for row in queries.tolist()]
    warm_up, measured = _Measured(), _Measured()
    async with aiohttp.ClientSession(url) as session:
        await _wait_until_up(session)
        await _clients(session, options, bodies, warm_up, _WARM_UP_S)
        background = [asyncio.create_task(_sample_memory(process, measured))]
        if options.reload_every:
            background.append(asyncio.create_task(_change_often(options)))
        await _clients(session, options, bodies, measured, options.seconds)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
    return measured


async def _wait_until_up(session: aiohttp.ClientSession) -> None:
    for _ in range(600):
        try:
            async with session.get("/healthz") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)
    raise SystemExit("the service does not start")


async def _clients(
    session: aiohttp.ClientSession,
    options: argparse.Namespace,
    bodies: list[bytes],
    measured: _Measured,
    seconds: float,
) -> None:
    """All clients; the requests of each are due at equal distances."""
    interval = options.clients / options.rate
    start = time.perf_counter() + 0.1

    async def client(number: int) -> None:
        turn = 0
        while (due := start + (turn + number / options.clients) * interval) < start + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            body = bodies[(turn * options.clients + number) % len(bodies)]
            await _query(session, options.catalog, body, measured)
            measured.latencies.append(time.perf_counter() - due)
            turn += 1

    await asyncio.gather(*(client(number) for number in range(options.clients)))


async def _query(
    session: aiohttp.ClientSession, catalog: str, body: bytes, measured: _Measured
) -> None:
    headers = {"Content-Type": "application/json"}
    try:
        async with session.post(f"/api/query/{catalog}", data=body, headers=headers) as response:
            answer = await response.json()
            measured.statuses[str(response.status)] += 1
            measured.versions[answer.get("version", 0)] += 1
    except (aiohttp.ClientError, TimeoutError) as error:
        measured.statuses[type(error).__name__] += 1


async def _sample_memory(process: int, measured: _Measured) -> None:
    """The memory of the service's own, without the mapped index, as Linux counts it."""
    started = time.perf_counter()
    while True:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        kilobytes = next(line for line in lines if line.startswith("RssAnon")).split()[1]
        measured.memory.append((time.perf_counter() - started, int(kilobytes) / 1024))
        await asyncio.sleep(2)


async def _change_often(options: argparse.Namespace) -> None:
    command = ["-m", "benchmarks.serve", "change", "--store", options.store]
    while True:
        await asyncio.sleep(options.reload_every)
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, "--catalog", options.catalog, preexec_fn=_nice
        )
        await process.wait()


def _nice() -> None:
    os.nice(10)


def _report(options: argparse.Namespace, measured: _Measured) -> None:
    milliseconds = np.array(measured.latencies) * 1000
    p50, p99 = np.percentile(milliseconds, [50, 99])
    seconds, memory = np.array(measured.memory).T
    # Without the first third, in which caches fill.
    later = seconds >= seconds[-1] / 3
    slope = np.polyfit(seconds[later] / 60, memory[later], 1)[0] if later.sum() > 2 else 0.0
    print(
        f"{options.catalog}: {len(milliseconds)} requests at {options.rate:g}/s from "
        f"{options.clients} clients; p50 {p50:.1f} ms, p99 {p99:.1f} ms, max "
        f"{milliseconds.max():.0f} ms; answers {dict(measured.statuses)}; index versions "
        f"{dict(sorted(measured.versions.items()))}; memory {memory[0]:.0f} to {memory[-1]:.0f} "
        f"MiB, {slope:+.2f} MiB/min; load of the machine {os.getloadavg()[0]:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
