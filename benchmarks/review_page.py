"""The review page of a large match table in Chromium: first paint, and the next pair.

python -m benchmarks.review_page [--pairs 20000] [--dim 576] [--loads 7] [--steps 60]

Two catalogs of as many local JPEGs of 320 x 320 are matched by random vectors and noisy copies of
them. Each load starts with an empty cache. A step is timed from the key to the frame in which both
images of the next pair are decoded; a person is simulated who looks at a pair for 0.3 s.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image
from playwright import sync_api

from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.settings import HOG_COLOR, EncoderSettings
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.settings import CatalogSettings, MatchMatrixSettings
from imgsim_assets.service.app import create_app
from imgsim_assets.storage.store import Store

_CATALOGS = ("products", "suppliers")
_NAME = "products__suppliers"
_EDGE = 320
_NOISE = 0.5
_READY = """() => document.querySelectorAll('.stage img').length === 2
  && [...document.querySelectorAll('.stage img')].every((image) => image.naturalWidth)"""
_STEPS = """async ([steps, key]) => {
  const decoded = () => [...document.querySelectorAll('.stage img')].map((i) => i.decode());
  const frame = () => new Promise(requestAnimationFrame);
  const times = [];
  for (let step = 0; step < steps; step++) {
    const before = document.getElementById('position').textContent;
    const started = performance.now();
    document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
    while (document.getElementById('position').textContent === before) await frame();
    await Promise.all(decoded());
    await frame();
    times.push(performance.now() - started);
    await new Promise((resume) => setTimeout(resume, 300));
  }
  return times;
}"""


def _write_images(root: Path, name: str, count: int) -> None:
    folder = root / name
    folder.mkdir()

    def write(number: int) -> None:
        seed = number if name == _CATALOGS[0] else number + 1_000_000
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((_EDGE, _EDGE), Image.Resampling.BILINEAR)
        image.save(folder / f"{number}.jpg", quality=75)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))
    with (root / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "title", "price", "brand", "image"])
        for number in range(count):
            row = (f"{number:06d}", f"Article {number} of {name}", f"{number % 90}.50", "Acme")
            writer.writerow([*row, f"{name}/{number}.jpg"])


def _vectors(count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    left = random.standard_normal((count, dim)).astype(np.float32)
    right = left + _NOISE * random.standard_normal((count, dim)).astype(np.float32)
    return left, right


def _fill(root: Path, store: Store, count: int, dim: int) -> None:
    encoder = EncoderSettings(name=HOG_COLOR)
    for name, vectors in zip(_CATALOGS, _vectors(count, dim), strict=True):
        _write_images(root, name, count)
        source = {"path": f"{name}.csv", "id": "sku", "url": "image"}
        settings = CatalogSettings.model_validate(
            {"name": name, "source": source, "encoder": encoder}
        )
        pipeline = CatalogPipeline(store, settings, root=root)
        pipeline.ingest()
        pipeline.fetch(pipeline.shards)
        ledger = ledger_table(store, name)
        commit = ledger.latest()
        assert commit is not None
        rows = ledger.read(commit).sort("id").select("sha256")
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        distinct = rows.with_row_index().unique("sha256", keep="first", maintain_order=True)
        images = distinct["sha256"].to_list()
        chosen = unit[distinct["index"].to_numpy()]
        ones = np.ones(len(images), np.float32)
        VectorTable(store, name, fingerprint(encoder)).append(VectorRows(images, chosen, ones))
        pipeline.embed(pipeline.shards)
        pipeline.index()
    matches = MatchMatrixSettings(name=_NAME, left=_CATALOGS[0], right=_CATALOGS[1], threshold=0.8)
    report = MatchPipeline(store, matches, root=root).run()
    print(f"{report.matches:,} matches of {report.left_items:,} items, {dim} numbers each")


@contextmanager
def _serving(store: Store) -> Iterator[str]:
    server = uvicorn.Server(
        uvicorn.Config(create_app(store), host="127.0.0.1", port=0, log_level="warning")
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.run)
        while not server.started and not running.done():
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True


def _describe(name: str, values: Sequence[float]) -> None:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    median, most = statistics.median(ordered), ordered[-1]
    print(f"{name}: median {median:,.0f} ms, p95 {p95:,.0f} ms, most {most:,.0f} ms")


def _measure(browser: sync_api.Browser, url: str, loads: int, steps: int) -> None:
    paints, pairs = [], []
    for _ in range(loads):
        page = browser.new_context().new_page()
        page.goto(url)
        page.wait_for_function(_READY)
        pairs.append(page.evaluate("performance.now()"))
        paints.append(
            page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        )
        page.context.close()
    print(f"first load of the server: paint {paints[0]:,.0f} ms, pair {pairs[0]:,.0f} ms")
    _describe(f"first contentful paint, {loads - 1} loads", paints[1:])
    _describe("first pair with both images", pairs[1:])
    page = browser.new_context().new_page()
    page.goto(url)
    page.evaluate("localStorage.setItem('imgsim.reviewer', 'benchmark')")
    page.wait_for_function(_READY)
    page.wait_for_timeout(1500)
    _describe(f"next pair by arrow key, {steps} steps", page.evaluate(_STEPS, [steps, "ArrowDown"]))
    _describe(f"next pair after a decision, {steps} steps", page.evaluate(_STEPS, [steps, "a"]))
    started = time.perf_counter()
    page.keyboard.press("t")
    page.locator("#threshold").wait_for()
    print(f"histogram of all best scores: {time.perf_counter() - started:,.1f} s")
    page.context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=576)
    parser.add_argument("--loads", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = Store.open(root / "store")
        _fill(root, store, given.pairs, given.dim)
        with _serving(store) as url, sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            _measure(browser, f"{url}/review/{_NAME}?tab=all", given.loads, given.steps)
            browser.close()


if __name__ == "__main__":
    main()
