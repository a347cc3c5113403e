"""How soon a gallery of many pairs is painted in Chromium, and how soon it follows a person.

    python -m benchmarks.gallery_page --pairs 20000 --rounds 5

The images are generated: noise over a color of their own, 800 x 600 pixels, two for each pair. The
page is opened as a file in a browser without a cache. `first paint` is the browser's first
contentful paint; `first pair` is the time from the start of the navigation to the frame after the
first two images were decoded.
"""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image
from playwright import sync_api

from imgsim_assets.gallery.page import write_gallery
from imgsim_assets.gallery.pairs import match_gallery
from imgsim_assets.storage.store import Store

_SIZE = (800, 600)
_FIRST_PAIR = """async () => {
  const images = [...document.querySelectorAll("#gallery img")].slice(0, 2);
  await Promise.all(images.map((image) => image.decode()));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now();
}"""
_FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
_SEARCH = """async (words) => {
  const start = performance.now();
  const search = document.querySelector("input[type=search]");
  search.value = words;
  search.dispatchEvent(new Event("input", { bubbles: true }));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - start;
}"""
_LAST = """async () => {
  const start = performance.now();
  scrollTo(0, document.body.scrollHeight);
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const last = () => document.querySelector("#gallery > :last-child > :last-child img");
  while (!last()?.complete || !last().naturalWidth) await frame();
  await frame();
  return performance.now() - start;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[2000, 20_000])
    parser.add_argument("--images", type=int, default=4000, help="different images, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the pages here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        store = Store.open(Path(scratch) / "store")
        digests = fill(store, min(arguments.images, 2 * max(arguments.pairs)))
        print(
            "pairs | write s | page MB | files | first paint ms | first pair ms | search | to end"
        )
        for pairs in arguments.pairs:
            path = folder / f"{pairs}.html"
            started = time.perf_counter()
            gallery = match_gallery(store, matches(digests, pairs), title=f"{pairs} pairs")
            write_gallery(gallery, path)
            seconds = time.perf_counter() - started
            beside = path.with_name(f"{path.stem}_files")
            files = len(list(beside.iterdir())) if beside.exists() else 0
            opened = [measure(path) for _ in range(arguments.rounds)]
            times = " | ".join(
                f"{statistics.median(values):.0f} ({max(values):.0f})"
                for values in zip(*opened, strict=True)
            )
            megabytes = path.stat().st_size / 1e6
            print(f"{pairs} | {seconds:.1f} | {megabytes:.1f} | {files} | {times}", flush=True)


def fill(store: Store, count: int) -> list[str]:
    random = np.random.default_rng(7)
    digests = []
    for _ in range(count):
        color = random.integers(0, 200, 3)
        coarse = random.integers(0, 56, (_SIZE[1] // 20, _SIZE[0] // 20, 3)) + color
        image = Image.fromarray(coarse.astype(np.uint8)).resize(_SIZE, Image.Resampling.BICUBIC)
        body = io.BytesIO()
        image.save(body, "JPEG", quality=85)
        digests.append(store.blobs.put(body.getvalue()))
    store.blobs.flush()
    return digests


def matches(digests: list[str], pairs: int) -> pl.DataFrame:
    """Rows with eight columns of each item, as a shop's catalog carries them."""
    numbers = np.arange(pairs)
    rows = pl.DataFrame(
        {
            "left_id": [f"SKU-{number:06d}" for number in numbers],
            "right_id": [f"supplier/{number:06d}" for number in numbers],
            "similarity": np.linspace(0.99, 0.8, pairs),
            "rank": np.ones(pairs, np.int32),
            "left_sha256": [digests[2 * number % len(digests)] for number in numbers],
            "right_sha256": [digests[(2 * number + 1) % len(digests)] for number in numbers],
            "evidence": [["same_bytes", "aligned", "similar"][number % 3] for number in numbers],
        }
    )
    columns = ("title", "brand", "price", "color", "size", "category", "url", "stock")
    return rows.with_columns(
        pl.format(
            "{} of item {} as the shop writes it", pl.lit(name), pl.int_range(pl.len())
        ).alias(f"{side}_{name}")
        for side in ("left", "right")
        for name in columns
    )


def measure(path: Path) -> tuple[float, float, float, float]:
    """Milliseconds to the first paint, the first pair, the result of a search, and the end."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(path.as_uri())
        pair = page.evaluate(_FIRST_PAIR)
        paint = page.evaluate(_FIRST_PAINT)
        end = page.evaluate(_LAST)
        search = page.evaluate(_SEARCH, "item 1999")
        browser.close()
    return paint, pair, search, end


if __name__ == "__main__":
    main()
