"""A small shop: two catalogs of self-made images behind a counting web server."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.encoders import COUNTER, encoded_count
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.pause_points import FOLDER, PausePoint
from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.web import Respond, Web

ENCODER = {
    "name": "thumbnail",
    "factory": "imgsim_assets_tests.support.encoders:thumbnail",
    "version": "1",
    "threshold": 0.845,
}
RESULTS = (
    "products/items",
    "products/images",
    "products/embeddings",
    "products/index",
    "products/similarity_graph",
    "suppliers/index",
    "matches/pair",
)
# Columns that say when and how, not what: they may differ between an update and a rebuild.
_PROVENANCE = {"fetched_at", "checked_at", "attempts", "next_retry_at", "number"}


@dataclass
class Shop:
    """Products p0.. with images 0.., suppliers s0.. with recompressed copies of some."""

    project: Project
    web: Web
    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, web: Web, *, products: int = 12, suppliers: int = 8) -> Shop:
        shop = cls(Project.make(root / "project"), web)
        for number in range(products):
            shop.put_item(f"p{number}", number)
        supplied = {}
        for number in range(suppliers):
            path = f"/s{number}.jpg"
            seed = number if number % 4 else 1000 + number
            web.pages[path] = encoded(make_image(seed), "JPEG", quality=55)
            supplied[f"s{number}"] = {"id": f"s{number}", "url": web.url(path)}
        shop._write("suppliers.csv", supplied)
        shop.declare()
        return shop

    def declare(
        self,
        *,
        suppliers: dict[str, Any] | None = None,
        pair: dict[str, Any] | None = None,
        **products: Any,
    ) -> None:
        """Write the YAML; keyword arguments change what is declared about the products."""
        for name, shards in (("products", 3), ("suppliers", 2)):
            attributes = {
                "name": name,
                "source": {"path": f"{name}.csv"},
                "shards": shards,
                "encoder": ENCODER,
                "download": {"allowed_hosts": [self.web.address], "retries": 0},
                "graph": {"k": 3},
                "checks": {"sample_size": 5},
            }
            more = products if name == "products" else suppliers or {}
            self.project.declare(name, "ImageCatalogComponent", attributes | more)
        both = {"name": "pair", "left": "products", "right": "suppliers", "threshold": 0.9}
        self.project.declare("pair", "MatchMatrixComponent", both | {"mode": "all"} | (pair or {}))

    def put_item(self, item: str, seed: int, *, path: str | None = None) -> None:
        """Add or change a product; its image follows from the seed."""
        page = path or f"/p{seed}.jpg"
        self.web.pages.setdefault(page, jpeg(seed))
        self.rows[item] = {"id": item, "url": self.web.url(page), "title": f"item {item}"}
        self._write("products.csv", self.rows)

    def remove_item(self, item: str) -> None:
        """Remove a product from the catalog."""
        del self.rows[item]
        self._write("products.csv", self.rows)

    def _write(self, name: str, rows: Mapping[str, Mapping[str, str]]) -> None:
        with (self.project.root / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(next(iter(rows.values()))))
            writer.writeheader()
            writer.writerows(rows.values())

    @property
    def hold(self) -> PausePoint:
        """Stops runs before a commit, once the project was prepared for servers."""
        return PausePoint(self.project.root / "hold")

    def prepare_for_servers(self) -> None:
        """Let `hold` reach the processes of runs, and keep them from waiting for the disk."""
        self.project.write(
            "shop/__init__.py",
            """
            from imgsim_assets_tests.support.pause_points import install_pause_point
            from imgsim_assets_tests.support.fast_dagster import disable_fsync

            install_pause_point()
            disable_fsync()
            """,
        )

    def slow_down(self, seconds: float) -> dict[str, bytes | Respond]:
        """Make every page take its time; returns the pages as they were."""
        pages = dict(self.web.pages)

        def slow(request: BaseHTTPRequestHandler) -> None:
            time.sleep(seconds)
            body = pages[request.path]
            assert isinstance(body, bytes)
            request.send_response(200)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

        self.web.pages.update(dict.fromkeys(pages, slow))
        return pages

    def assert_equals_a_rebuild(self) -> None:
        """Compare the tables with those of a rebuild in a store of its own."""
        found = results(self.project.store)
        fresh = self.project.root / f"rebuilt-{time.monotonic_ns()}"
        counter = self.project.root / "encoded-by-rebuilds"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("IMGSIM_STORE", str(fresh))
            patch.setenv(COUNTER, str(counter))
            assert self.project.materialize()
        for name, rows in results(Store.open(fresh)).items():
            assert found[name].equals(rows), name

    @property
    def counter(self) -> Path:
        """The file in which the encoder leaves a line for every image it encodes."""
        return self.project.root / "encoded"

    @property
    def encodings(self) -> int:
        return encoded_count(self.counter)

    def environment(self) -> dict[str, str]:
        return {COUNTER: str(self.counter), FOLDER: str(self.hold.folder)}


def versions(store: Store) -> dict[str, int]:
    """The newest commit of every table."""
    newest = {name: store.table(name).latest() for name in store.table_names()}
    return {name: commit.version for name, commit in newest.items() if commit is not None}


def results(store: Store) -> dict[str, pl.DataFrame]:
    """What the tables of a shop say, without what tells when and how."""
    found = {}
    for name in RESULTS:
        rows = read_table(name, store=store).collect()
        kept = rows.select(sorted(set(rows.columns) - _PROVENANCE))
        found[name] = kept.sort(kept.columns)
    return found
