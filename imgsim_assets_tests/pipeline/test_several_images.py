"""Items with several images through the whole pipeline, with its requests and forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imgsim_assets import ImageSimilarityModel, read_table
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.settings import CatalogSettings, MatchMatrixSettings
from imgsim_assets.pipeline.verify import verify
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.encoders import COUNTER, encoded_count
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.shop import ENCODER, versions
from imgsim_assets_tests.support.web import Web

_RESULTS = (
    "products/items",
    "products/images",
    "products/embeddings",
    "products/index",
    "products/similarity_graph",
    "products/duplicate_groups",
    "suppliers/embeddings",
    "suppliers/index",
    "matches/pair",
)
# Columns that say when and how, not what: they may differ between an update and a rebuild.
_PROVENANCE = {"fetched_at", "checked_at", "attempts", "next_retry_at", "number"}


@dataclass
class _Shop:
    """Products p0.. of one to six images, and suppliers with recompressed copies of some."""

    root: Path
    web: Web
    products: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, web: Web) -> _Shop:
        shop = cls(root, web)
        seeds = iter(range(100))
        for number in range(8):
            images = [next(seeds) for _ in range(number % 6 + 1)]
            shop.products[f"p{number}"] = [shop.url(seed) for seed in images]
        # The last image of p4 and the first of p5 are the same; one image is missing.
        shop.products["p5"].insert(0, shop.products["p4"][-1])
        shop.products["p2"].append(web.url("/gone.jpg"))
        suppliers = {
            f"s{number}": [shop.url(200 + number), shop.copy(seed), shop.url(300 + number)]
            for number, seed in enumerate((0, 2, 5, 14, 20))
        }
        shop.write("suppliers", suppliers)
        shop.write("products", shop.products)
        return shop

    def url(self, seed: int) -> str:
        path = f"/{seed}.jpg"
        self.web.pages.setdefault(path, jpeg(seed))
        return self.web.url(path)

    def copy(self, seed: int) -> str:
        path = f"/copy-{seed}.jpg"
        self.web.pages[path] = encoded(make_image(seed), "JPEG", quality=55)
        return self.web.url(path)

    def write(self, name: str, items: dict[str, list[str]]) -> None:
        frame = pl.DataFrame({"id": list(items), "photos": list(items.values())})
        frame.write_parquet(self.root / f"{name}.parquet")

    def catalog(self, name: str) -> dict[str, Any]:
        groups = {"groups": {"threshold": 0.9}} if name == "products" else {}
        return {
            "name": name,
            "source": {"path": f"{name}.parquet", "url": "photos"},
            "shards": 2,
            "encoder": ENCODER,
            "download": {"allowed_hosts": [self.web.address], "retries": 0},
            "graph": {"k": 2},
            **groups,
        }

    @property
    def pair(self) -> dict[str, Any]:
        return {
            "name": "pair", "left": "products", "right": "suppliers", "mode": "top_k", "k": 2,
            "threshold": 0.5,
        }  # fmt: skip

    def run(self, store: Store) -> None:
        """Every stage of both catalogs, and the match table."""
        for name in ("products", "suppliers"):
            settings = CatalogSettings.model_validate(self.catalog(name))
            pipeline = CatalogPipeline(store, settings, root=self.root)
            pipeline.ingest(allow_removals=True)
            pipeline.fetch(pipeline.shards)
            pipeline.embed(pipeline.shards)
            pipeline.index()
            pipeline.graph()
            if settings.groups is not None:
                pipeline.groups()
        MatchPipeline(store, MatchMatrixSettings.model_validate(self.pair)).run()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Shop]:
    monkeypatch.setenv(COUNTER, str(tmp_path / "encoded"))
    with Web() as web:
        yield _Shop.open(tmp_path, web)


def _results(store: Store) -> dict[str, pl.DataFrame]:
    found = {}
    for name in _RESULTS:
        rows = read_table(name, store=store).collect()
        kept = rows.select(sorted(set(rows.columns) - _PROVENANCE))
        # An image that never arrived has no sha256 by which it could be sorted.
        found[name] = kept.sort(kept.columns)
    return found


@pytest.mark.slow
def test_cost_follows_images_and_results_equal_a_rebuild(
    shop: _Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "store")
    counter = tmp_path / "encoded"

    def run() -> tuple[int, int]:
        """The GET requests and forward passes of a run, whose results equal a rebuild's."""
        shop.write("products", shop.products)
        gets, passes = shop.web.total_gets, encoded_count(counter)
        shop.run(store)
        cost = (shop.web.total_gets - gets, encoded_count(counter) - passes)
        fresh = Store.open(tmp_path / f"fresh-{len(list(tmp_path.iterdir()))}")
        with monkeypatch.context() as patch:
            patch.setenv(COUNTER, str(tmp_path / "encoded-by-rebuilds"))
            shop.run(fresh)
        expected = _results(fresh)
        for name, rows in _results(store).items():
            assert rows.equals(expected[name]), name
        return cost

    images = sum(map(len, shop.products.values()))
    # p4 and p5 share an image: one request for each, one vector; the missing one has none.
    assert run() == (images + 15, images - 2 + 15)

    before = versions(store)
    shop.run(store)
    assert versions(store) == before
    # The missing image is asked for again only when it is due.
    assert run() == (0, 0)

    shop.products["p4"].reverse()
    assert run() == (0, 0)
    shop.products["p1"].append(shop.url(400))
    assert run() == (1, 1)
    shop.products["p3"].pop(1)
    assert run() == (0, 0)
    shop.products["p0"][0] = shop.url(401)
    assert run() == (1, 1)
    del shop.products["p6"]
    assert run() == (0, 0)

    report = verify(store)
    assert not report.problems, report.problems


def test_matches_and_models_name_the_images(shop: _Shop, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    shop.run(store)

    matches = read_table("matches/pair", store=store).collect()
    options: dict[str, Any] = {"store": store, "factory": ENCODER["factory"], "progress": False}
    model = ImageSimilarityModel.create("suppliers", **options)
    found = model.query("products", k=2, progress=False)

    copies = matches.filter(pl.col("similarity") > 0.99)
    # Image 1 of each supplier is a copy of an image of a product.
    assert copies["right_image"].to_list() == [1] * 6
    named = copies.select("left_id", "left_image", "right_id").sort("right_id", "left_id")
    assert named.rows() == [
        ("p0", 0, "s0"), ("p1", 1, "s1"), ("p2", 2, "s2"),
        ("p4", 4, "s3"), ("p5", 0, "s3"), ("p5", 6, "s4"),
    ]  # fmt: skip
    near = found.filter(pl.col("distance") <= 1).rename(
        {
            "query_label": "left_id",
            "query_image": "left_image",
            "reference_label": "right_id",
            "reference_image": "right_image",
        }
    )
    columns = ["left_id", "left_image", "right_id", "right_image", "rank"]
    assert near.select(columns).equals(matches.select(columns))
    assert (near["distance"] ** 2 / 2 - (1 - matches["similarity"])).abs().max() < 1e-9  # type: ignore[operator]


@pytest.mark.slow
def test_dagster_materializes_items_with_several_images(
    shop: _Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.make(tmp_path / "project")
    shop.root = project.root
    for name in ("products", "suppliers"):
        frame = pl.read_parquet(tmp_path / f"{name}.parquet")
        frame.write_parquet(project.root / f"{name}.parquet")
        project.declare(name, "ImageCatalogComponent", shop.catalog(name))
    project.declare("pair", "MatchMatrixComponent", shop.pair)
    counter = tmp_path / "encoded"

    def materialize() -> tuple[int, int]:
        gets, passes = shop.web.total_gets, encoded_count(counter)
        assert project.materialize()
        return shop.web.total_gets - gets, encoded_count(counter) - passes

    images = sum(map(len, shop.products.values()))
    assert materialize() == (images + 15, images - 2 + 15)
    before = versions(project.store)
    assert materialize() == (0, 0)
    assert versions(project.store) == before
    shop.products["p4"].reverse()
    shop.products["p1"].append(shop.url(400))
    shop.write("products", shop.products)
    assert materialize() == (1, 1)

    fresh = Store.open(tmp_path / "fresh")
    monkeypatch.setenv(COUNTER, str(tmp_path / "encoded-by-rebuilds"))
    shop.run(fresh)
    expected = _results(fresh)
    for name, rows in _results(project.store).items():
        assert rows.equals(expected[name]), name
