"""Items with several images over HTTP: recall by the best pair and by the first image.

Each shop item has 1 to 6 views of one photograph: the photograph and strongly edited copies of
it. The supplier's item has other copies of some of these views, in another order. Counts the GETs
and forward passes of a first run, of one without a change, after every item's images were
reordered, and after one image was added to 15 items.

    python -m benchmarks.several_images --images clothing_1500.tar --work /tmp/several_images \
        --encoder mobilenet_v2 --weights mobilenet_v2.pth --threshold 0.845
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from PIL import Image

from benchmarks.features import decoded_images
from benchmarks.serving import Server, serving
from imgsim_assets.images.perturbations import perturb
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.run import fetch_and_embed
from imgsim_assets.pipeline.settings import CatalogSettings, MatchMatrixSettings
from imgsim_assets.storage.store import Store

CATALOGS = ("shop", "suppliers")
MAX_VIEWS = 6
ITEMS_WITH_ADDED_IMAGE = 15
# The edits of a view, beside the photograph itself, and those of a supplier's copy of a view.
VIEW_EDITS = ("flip", "crop", "pad", "gray", "rotate")
COPY_EDITS = ("recompress", "resize", "brighten")


class Product(NamedTuple):
    """The image files of one product in both catalogs, and the shop's further image."""

    shop: Sequence[str]
    suppliers: Sequence[str]
    further: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tar of JPEGs, one per item")
    parser.add_argument("--encoder", default="hog_color")
    parser.add_argument("--weights", help="weights file of the encoder")
    parser.add_argument("--threshold", type=float, default=0.9, help="minimum cosine of a match")
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, emptied first")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    served = options.work / "served"
    served.mkdir(parents=True)
    photographs = list(decoded_images(options.images))[: options.items]
    products = [_make_product(number, each, served) for number, each in enumerate(photographs)]
    with serving(served) as server:
        print(json.dumps(_run(options, server, products), indent=2))


def _make_product(number: int, photograph: Image.Image, served: Path) -> Product:
    rng = random.Random(number)
    count = rng.randint(1, MAX_VIEWS)
    edits = rng.sample(VIEW_EDITS, len(VIEW_EDITS))
    views = [photograph, *(perturb(photograph, edit, number) for edit in edits)]
    rng.shuffle(views)
    shop = [_save(served, f"shop_{number}_{n}", view) for n, view in enumerate(views[:count])]
    copied = rng.sample(views[:count], rng.randint(1, count))
    copies = [perturb(view, rng.choice(COPY_EDITS), number) for view in copied]
    suppliers = [_save(served, f"supplier_{number}_{n}", copy) for n, copy in enumerate(copies)]
    further = _save(served, f"further_{number}", perturb(photograph, "watermark", number))
    return Product(shop, suppliers, further)


def _save(served: Path, name: str, image: Image.Image) -> str:
    image.save(served / f"{name}.jpg", "JPEG", quality=90)
    return f"{name}.jpg"


def _run(
    options: argparse.Namespace, server: Server, products: Sequence[Product]
) -> dict[str, Any]:
    store = Store.open(options.work / "store")
    shop = {f"p{number}": list(each.shop) for number, each in enumerate(products)}
    suppliers = {f"s{number}": list(each.suppliers) for number, each in enumerate(products)}
    report: dict[str, Any] = {
        "items": {"shop": len(shop), "suppliers": len(suppliers)},
        "images": {
            "shop": sum(map(len, shop.values())),
            "suppliers": sum(map(len, suppliers.values())),
        },
    }
    for step in _steps(products, shop):
        _write_lists(options.work, server, shop, suppliers)
        report[step] = _measure(options, store, server)
    report["matches"] = {
        compare: _recall(options, store, compare) for compare in ("first", "any", "mean_best")
    }
    return report


def _steps(products: Sequence[Product], shop: dict[str, list[str]]) -> Iterator[str]:
    """The name of each run, after the shop's images were changed for it."""
    yield "first_run"
    yield "no_change"
    for images in shop.values():
        images.reverse()
    yield "reordered"
    for images in shop.values():
        images.reverse()
    for number in range(ITEMS_WITH_ADDED_IMAGE):
        shop[f"p{number}"].append(products[number].further)
    yield "image_added"


def _write_lists(work: Path, server: Server, *catalogs: dict[str, list[str]]) -> None:
    for name, items in zip(CATALOGS, catalogs, strict=True):
        rows = (
            json.dumps({"id": item, "images": [server.url(image) for image in images]})
            for item, images in items.items()
        )
        (work / f"{name}.jsonl").write_text("\n".join(rows))


def _measure(options: argparse.Namespace, store: Store, server: Server) -> dict[str, Any]:
    pipelines = [_pipeline(options, store, server, name) for name in CATALOGS]
    gets, started = server.gets(), time.monotonic()
    reports = fetch_and_embed(pipelines)
    for pipeline in pipelines:
        pipeline.index()
    return {
        "gets": server.gets() - gets,
        "forward_passes": sum(report.embedded for report in reports),
        "seconds": round(time.monotonic() - started, 1),
    }


def _pipeline(
    options: argparse.Namespace, store: Store, server: Server, name: str
) -> CatalogPipeline:
    settings = CatalogSettings.model_validate(
        {
            "name": name,
            "source": {"path": str(options.work / f"{name}.jsonl"), "id": "id", "url": "images"},
            "encoder": {"name": options.encoder, "weights": options.weights},
            "download": {"allowed_hosts": [server.address]},
        }
    )
    return CatalogPipeline(store, settings, root=options.work)


def _recall(options: argparse.Namespace, store: Store, compare: str) -> dict[str, Any]:
    """Of all items, those whose best match is the right one, and those with a wrong one."""
    settings = MatchMatrixSettings.model_validate(
        {
            "name": f"shop__suppliers_{compare}",
            "left": "shop",
            "right": "suppliers",
            "threshold": options.threshold,
            "compare": compare,
        }
    )
    pipeline = MatchPipeline(store, settings)
    rows = pipeline.rows(pipeline.run())
    right = rows.filter(pl.col("left_id").str.slice(1) == pl.col("right_id").str.slice(1))
    return {
        "recall": round(right.height / options.items, 3),
        "wrong": round((rows.height - right.height) / options.items, 3),
    }


if __name__ == "__main__":
    main()
