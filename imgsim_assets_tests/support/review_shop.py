"""Two catalogs with titles, prices and pages, and their match table, to be reviewed."""

from __future__ import annotations

import csv
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn

from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.settings import CatalogSettings, MatchMatrixSettings
from imgsim_assets.service.app import create_app
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.similarity.matches import MatchReport
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, tiny

NAME = "products__suppliers"
HOSTILE_ID = '"><img src=x onerror=alert(1)>'
HOSTILE_TITLE = "</script><script>alert(2)</script>"
HOSTILE_URL = "javascript:alert(3)"
RIGHT_TO_LEFT = "\u202egpj.exe"
LONG = "wide " * 2000
_HEADER = ("sku", "title", "price", "page", "extra", "image")
# Images of these seeds are of no other item.
_OTHERS = 10_000


@dataclass
class ReviewShop:
    """A project with the catalogs `products` and `suppliers` and the table of their matches."""

    root: Path
    matched: int
    unmatched: int = 3

    @classmethod
    def open(cls, root: Path, matched: int = 24) -> ReviewShop:
        """Write the catalogs, the first product with hostile text and several images."""
        shop = cls(root, matched)
        left, right = [], []
        for number in range(matched):
            images = [shop._image(f"l{number}.png", tiny(number))]
            if number == 1:
                images.append(shop._image("l1b.png", tiny(_OTHERS)))
            title, page, extra = f"Blue shirt {number}", f"https://shop.example/p/{number}", ""
            item = f"P{number:03d}"
            if number == 0:
                item, title, page, extra = HOSTILE_ID, HOSTILE_TITLE, HOSTILE_URL, LONG
            left.append((item, title, f"{number}.50", page, extra, "|".join(images)))
            copy = shop._image(f"r{number}.png", tiny(500 + number, like=number))
            title = RIGHT_TO_LEFT if number == 0 else f"Navy shirt {number}"
            right.append((f"S{number:03d}", title, f"{number}.50", page, "", copy))
        for number in range(cls.unmatched):
            image = shop._image(f"u{number}.png", tiny(_OTHERS + 1 + number))
            left.append((f"U{number:03d}", "Without a match", "1.00", "", "", image))
        shop._write("products", left)
        shop._write("suppliers", right)
        return shop

    def copied_to(self, root: Path) -> ReviewShop:
        """The same project elsewhere, with its store."""
        shutil.copytree(self.root, root)
        return replace(self, root=root)

    @property
    def store(self) -> Store:
        """The store of the project."""
        return Store.open(self.root / "store")

    def materialize(self) -> MatchReport:
        """Bring both catalogs and the match table up to date."""
        for name in ("products", "suppliers"):
            source = {"path": f"{name}.csv", "id": "sku", "url": "image", "separator": "|"}
            settings = CatalogSettings.model_validate(
                {"name": name, "source": source, "shards": 1, "encoder": THUMBNAIL}
            )
            pipeline = CatalogPipeline(self.store, settings, root=self.root)
            pipeline.ingest()
            pipeline.fetch(pipeline.shards)
            pipeline.embed(pipeline.shards)
            pipeline.index()
        return self.match()

    def match(self) -> MatchReport:
        """Bring the match table up to date."""
        settings = MatchMatrixSettings(name=NAME, left="products", right="suppliers", threshold=0.9)
        return MatchPipeline(self.store, settings, root=self.root).run()

    def _image(self, name: str, data: bytes) -> str:
        (self.root / name).write_bytes(data)
        return name

    def _write(self, name: str, rows: Sequence[Sequence[str]]) -> None:
        with (self.root / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([_HEADER, *rows])


@contextmanager
def serving(store: Store, settings: ServeSettings | None = None) -> Iterator[str]:
    """The address of the application over a store, on loopback."""
    settings = settings or ServeSettings(refresh_s=0.2)
    server = uvicorn.Server(
        uvicorn.Config(create_app(store, settings), host="127.0.0.1", port=0, log_level="warning")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
