"""Galleries: images and query results as one HTML file that needs nothing else.

Images are embedded as small JPEGs, each once, so that the file works offline and can be sent
to somebody. A long result is cut off, and says so.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from imgsim_assets.errors import SettingsError
from imgsim_assets.images.header import ImageError
from imgsim_assets.images.plot import histogram
from imgsim_assets.search.dataset import DatasetOptions, read_dataset
from imgsim_assets.search.image_ref import ImageRef

_THUMBNAIL = 160
_QUALITY = 78
_BINS = 30
_READERS = 4
MOST_ROWS = 200

Images = Mapping[str, ImageRef | None]


def write_result(
    path: str | os.PathLike[str],
    result: pl.DataFrame,
    queries: Images,
    references: Images,
    *,
    title: str,
    most: int = MOST_ROWS,
) -> Path:
    """Write query images beside what was found for them.

    `result` has the columns of a query (query_label, reference_label, distance, rank, and orientation
    if it was asked for); the images are by label as text. At most `most` queries are shown.
    """
    labels = result["query_label"].unique(maintain_order=True)
    shown = result.filter(pl.col("query_label").is_in(labels.head(most).implode()))
    wanted_queries = {str(label) for label in labels.head(most)}
    wanted = {str(label) for label in shown["reference_label"]}
    images = _Thumbnails()
    query_images = images.of({label: queries.get(label) for label in sorted(wanted_queries)})
    found_images = images.of({label: references.get(label) for label in sorted(wanted)})
    rows = [
        {
            "label": str(label),
            "image": query_images[str(label)],
            "found": [
                {
                    "label": str(row["reference_label"]),
                    "image": found_images[str(row["reference_label"])],
                    "distance": row["distance"],
                    "orientation": row.get("orientation"),
                }
                for row in own.iter_rows(named=True)
            ],
        }
        for (label,), own in shown.partition_by(
            "query_label", as_dict=True, maintain_order=True
        ).items()
    ]
    cut = f", the first {most} of {len(labels)} shown" if len(labels) > most else ""
    return _write(path, title, f"{len(labels)} queries{cut}", rows, images, result["distance"])


def write_images(
    path: str | os.PathLike[str],
    images: Sequence[ImageRef],
    captions: Sequence[str],
    *,
    title: str,
    most: int = MOST_ROWS * 5,
) -> Path:
    """Write images with their captions, at most `most` of them."""
    thumbnails = _Thumbnails()
    names = [str(number) for number in range(min(most, len(images)))]
    numbers = thumbnails.of(dict(zip(names, images, strict=False)))
    rows = [
        {"label": caption, "image": numbers[name], "found": []}
        for name, caption in zip(names, captions, strict=False)
    ]
    cut = f", the first {most} shown" if len(images) > most else ""
    return _write(path, title, f"{len(images)} images{cut}", rows, thumbnails, None)


def explore(
    frame: Any,
    path: str | os.PathLike[str] = "gallery.html",
    *,
    feature: str | None = None,
    title: str = "Images",
) -> Path:
    """Write a gallery of any frame with images, such as a filtered one, and return its path.

    Args:
        frame: a frame with a column of images, bytes or paths, or what else `create` takes.
        path: the HTML file.
        feature: the column of images, where it is not the only one there can be.
        title: the page's heading.

    Raises:
        SettingsError: when there are no images.
    """
    dataset = read_dataset(frame, DatasetOptions("frame", None, feature))
    if dataset.images is None:
        raise SettingsError("frame: these are vectors; give a frame with images")
    is_frame = isinstance(frame, pl.DataFrame)
    captions = _captions(frame, dataset.feature) if is_frame else list(map(str, dataset.labels))
    return write_images(path, dataset.images, captions, title=title)


def show(image: Any) -> Image.Image:
    """An image, given as a path, URL, bytes or PIL image, upright and in RGB.

    A notebook draws what a cell returns. Raises SettingsError when it cannot be read.
    """
    dataset = read_dataset(image, DatasetOptions("image"))
    if dataset.images is None or len(dataset) != 1:
        raise SettingsError("image: give one image, as a path, URL, bytes or PIL image")
    try:
        return dataset.images[0].read()[0]
    except ImageError as error:
        raise SettingsError(f"image: it cannot be shown: {error}") from error


def _captions(frame: pl.DataFrame, feature: str | None) -> list[str]:
    """What the other columns of a frame say, in short."""
    plain = [
        name
        for name, dtype in frame.schema.items()
        if name != feature and not dtype.is_nested() and dtype not in (pl.Binary, pl.Object)
    ]
    if not plain and feature is not None and frame.schema[feature] == pl.String:
        plain = [feature]
    return [
        ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row)
        for row in frame.select(plain).iter_rows()
    ] or [str(number) for number in range(frame.height)]


class _Thumbnails:
    """Small JPEGs as data URLs, each kept once; images that cannot be had have none."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._numbers: dict[str, int] = {}

    def of(self, images: Images) -> dict[str, int]:
        """The number of each image's thumbnail, -1 where there is none."""
        with ThreadPoolExecutor(_READERS, "read") as pool:
            urls = pool.map(_thumbnail, images.values())
            return {name: self._keep(url) for name, url in zip(images, urls, strict=True)}

    def _keep(self, url: str | None) -> int:
        if url is None:
            return -1
        if url not in self._numbers:
            self._numbers[url] = len(self.urls)
            self.urls.append(url)
        return self._numbers[url]


def _thumbnail(ref: ImageRef | None) -> str | None:
    if ref is None:
        return None
    try:
        image, _ = ref.read(_THUMBNAIL)
    except ImageError:
        return None
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    body = io.BytesIO()
    small.save(body, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(body.getvalue()).decode()


def _write(
    path: str | os.PathLike[str],
    title: str,
    subtitle: str,
    rows: Sequence[Mapping[str, Any]],
    images: _Thumbnails,
    distances: pl.Series | None,
) -> Path:
    greatest = 0.0
    chart = ""
    if distances is not None and len(distances):
        values = distances.to_numpy()
        greatest = float(values.max())
        counts, edges = np.histogram(values, bins=_BINS, range=(0.0, greatest or 1.0))
        chart = histogram(
            counts.tolist(), edges.tolist(), title=f"distance of {len(values):,} pairs"
        )
    # Labels may hold what ends a script element, or begins a comment in it.
    data = json.dumps({"rows": rows, "images": images.urls}).replace("<", "\\u003c")
    parts = {
        "TITLE": escape(title),
        "SUBTITLE": escape(subtitle),
        "CHART": chart,
        "GREATEST": f"{greatest * 1.000001:.6f}",
        "CONTROLS": "" if distances is not None else "hidden",
        "DATA": data,
    }
    # In one pass: what is put in may look like a mark itself.
    page = re.sub("@([A-Z]+)@", lambda mark: parts[mark[1]], _PAGE)
    target = Path(path)
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"path: {target} cannot be written: {error.strerror}") from error
    return target


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
:root { color-scheme: light; }
body { margin: 0; font: 14px/1.4 system-ui, sans-serif; color: #222; background: #f6f6f8; }
header { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: 8px 28px;
  align-items: center; padding: 10px 20px; background: #fff; border-bottom: 1px solid #ddd; }
h1 { font-size: 18px; margin: 0; }
header p { margin: 0; color: #666; }
header svg { height: 96px; width: auto; overflow: visible; }
label { display: flex; gap: 8px; align-items: center; }
input[type=search] { padding: 4px 8px; width: 12em; }
output { font-variant-numeric: tabular-nums; min-width: 4.5em; }
main { padding: 12px 20px; }
main.wall { display: flex; flex-wrap: wrap; gap: 12px; }
section { display: flex; gap: 16px; background: #fff; border: 1px solid #e2e2e6;
  border-radius: 8px; padding: 12px; margin-bottom: 12px; }
main.wall section { margin: 0; }
.query { border-right: 2px solid #4f43dd; padding-right: 16px; }
main.wall .query { border: 0; padding: 0; }
.found { display: flex; flex-wrap: wrap; gap: 12px; }
figure { margin: 0; width: 160px; }
figure .frame { width: 160px; height: 160px; display: flex; align-items: center;
  justify-content: center; background: #eee; border-radius: 4px; color: #777; }
img { max-width: 160px; max-height: 160px; border-radius: 4px; }
figcaption { margin-top: 4px; overflow-wrap: anywhere; font-size: 12px; }
b { font-variant-numeric: tabular-nums; }
.none { color: #777; align-self: center; }
[hidden] { display: none !important; }
</style>
</head>
<body>
<header>
<div><h1>@TITLE@</h1><p>@SUBTITLE@</p></div>
<div @CONTROLS@>@CHART@</div>
<label @CONTROLS@>distance at most
<input id="radius" type="range" min="0" max="@GREATEST@" value="@GREATEST@" step="any">
<output id="told"></output></label>
<label>label <input id="text" type="search" placeholder="part of a label"></label>
<p id="count"></p>
</header>
<main id="main"></main>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const isWall = data.rows.every((row) => row.found.length === 0);
if (isWall) main.className = "wall";
function element(name, parent, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
  return made;
}
function figure(parent, item) {
  const made = element("figure", parent);
  const frame = element("div", made, "frame");
  if (item.image < 0) frame.textContent = "no image";
  else {
    const image = element("img", frame);
    image.src = data.images[item.image];
    image.alt = item.label;
    image.loading = "lazy";
  }
  const caption = element("figcaption", made);
  if (item.distance !== undefined) {
    element("b", caption, "", item.distance.toFixed(4));
    caption.append(" ");
  }
  caption.append(item.label);
  if (item.orientation && item.orientation !== "upright") element("div", caption, "", item.orientation);
  return made;
}
const drawn = data.rows.map((row) => {
  const section = element("section", main);
  figure(element("div", section, "query"), row);
  if (isWall) return { row, section, found: [], none: null };
  const list = element("div", section, "found");
  const found = row.found.map((item) => ({ item, figure: figure(list, item) }));
  const none = element("div", list, "none", "nothing this near");
  return { row, section, found, none };
});
const radius = document.getElementById("radius");
const text = document.getElementById("text");
function filter() {
  // Browsers round what a slider is set to: what lies at the bar is within it.
  const most = Number(radius.value) + 1e-9;
  const part = text.value.toLowerCase();
  let pairs = 0, rows = 0;
  for (const { row, section, found, none } of drawn) {
    const named = (item) => item.label.toLowerCase().includes(part);
    let near = 0;
    for (const { item, figure } of found) {
      figure.hidden = item.distance > most;
      if (!figure.hidden) near += 1;
    }
    section.hidden = !(named(row) || row.found.some(named));
    if (none) none.hidden = near > 0;
    if (!section.hidden) { rows += 1; pairs += near; }
  }
  document.getElementById("told").textContent = most.toFixed(4);
  document.getElementById("count").textContent =
    isWall ? rows + " images" : pairs + " pairs, " + rows + " queries";
}
radius.addEventListener("input", filter);
text.addEventListener("input", filter);
filter();
</script>
</body>
</html>
"""
