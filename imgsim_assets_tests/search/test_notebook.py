"""What a notebook shows, through the objects of IPython's public protocol."""

from __future__ import annotations

import gc
import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

import imgsim_assets
from imgsim_assets import ImageSimilarityModel
from imgsim_assets.search import notebook
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import MatchSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.gallery_pages import GalleryPage
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.model_datasets import create_model


class Formatter(dict[Any, Callable[[Any], str]]):
    """The formatter of HTML that IPython gives to an extension."""

    def for_type(self, kind: Any, function: Callable[[Any], str]) -> None:
        self[kind] = function

    def show(self, value: Any) -> str:
        shown: str = self[type(value)](value) if type(value) in self else value._repr_html_()
        return shown


@pytest.fixture
def shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], str]]:
    """What a notebook with the extension shows of a value, with the images of `store`."""
    monkeypatch.setenv("IMGSIM_STORE", store.url)
    formatter = Formatter()
    formatters = {"text/html": formatter}
    ipython = SimpleNamespace(display_formatter=SimpleNamespace(formatters=formatters))
    imgsim_assets.load_ipython_extension(ipython)
    yield formatter.show
    imgsim_assets.unload_ipython_extension(ipython)
    assert not formatter


def _page(shown: str) -> GalleryPage:
    framed = re.fullmatch(
        r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts allow-popups" .*', shown
    )
    assert framed is not None, shown[:200]
    return GalleryPage(html.unescape(framed[1]))


def _matches(store: Store) -> pl.LazyFrame:
    for name in ("products", "suppliers"):
        indexed(store, name, {f"p{seed}": tiny(seed) for seed in range(3)})
    settings = MatchSettings(threshold=0.99)
    MatchStage(store, "pair", settings, left="products", right="suppliers").run()
    return imgsim_assets.read_table("matches/pair", store=store)


def test_match_tables_are_shown_with_their_images(
    shown: Callable[[Any], str], store: Store
) -> None:
    lazy = _matches(store)

    for frame in (lazy, lazy.collect(), lazy.collect().head(2)):
        page = _page(shown(frame))
        assert page.column("left_id") == frame.lazy().collect()["left_id"].to_list()
        assert None not in page.column("left thumbnail")


def test_other_frames_and_those_of_another_store_are_tables_of_polars(
    shown: Callable[[Any], str], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = _matches(store).collect()
    for frame in (pl.DataFrame({"a": [1]}), pl.LazyFrame({"a": [1]}), matches.drop("left_sha256")):
        assert shown(frame) == frame._repr_html_()
    monkeypatch.setenv("IMGSIM_STORE", str(tmp_path / "another"))

    assert shown(matches) == matches._repr_html_()


def test_the_result_of_a_query_is_shown_with_its_images_while_it_exists(
    shown: Callable[[Any], str],
) -> None:
    references = pl.DataFrame({"id": ["a", "b"], "image": [jpeg(1), jpeg(2)]})
    model = create_model(references, label="id")
    result = model.query(pl.DataFrame({"id": [7], "image": [jpeg(2)]}), label="id", progress=False)
    part = result.head(1)

    page = _page(shown(result))

    assert (page.column("left_id"), page.column("right_id")) == (["7", "7"], ["b", "a"])
    assert page.column("left thumbnail") == [0, 0]
    assert page.column("right thumbnail") == [0, 1]
    assert shown(part) == part._repr_html_()
    del result
    gc.collect()
    assert notebook._results._known == {}


def test_results_are_forgotten_without_the_extension() -> None:
    model = ImageSimilarityModel.create([[0.0, 1.0]])
    image_model = create_model(pl.DataFrame({"image": [jpeg(1)]}))

    results = [model.query([0.0, 1.0]), image_model.query(jpeg(1), progress=False)]

    assert len(results) == 2
    assert notebook._results._known == {}


def test_a_model_shows_its_summary_and_its_first_images() -> None:
    frame = pl.DataFrame({"id": ["<b>", "b"], "image": [jpeg(1), jpeg(2)]})

    shown = create_model(frame, label="id")._repr_html_()

    assert "hog_color" in shown or "thumbnail" in shown
    assert re.findall(r"alt='([^']*)'", shown) == ["&lt;b&gt;", "b"]
    vectors = ImageSimilarityModel.create([[0.0, 1.0]])._repr_html_()
    assert "<img" not in vectors


def test_a_written_gallery_shows_its_first_rows(tmp_path: Path) -> None:
    frame = pl.DataFrame({"image": [jpeg(seed % 3) for seed in range(60)]})

    written = imgsim_assets.explore(frame, tmp_path / "g.html", title='"quoted"')

    page = _page(written._repr_html_())
    assert len(page.rows) == 50
    assert "60 images, the first 50 shown" in page.text
    assert len(GalleryPage.read(written).rows) == 60
    assert str(written.path) == str(tmp_path / "g.html")
