"""Shops that are materialized once, for the tests that go on from there."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from imgsim_assets_tests.support.encoders import COUNTER
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Respond, Web

Build = Callable[[Path, Web], Shop]


@dataclass(frozen=True)
class _Materialized:
    """A shop after its first run, and what its server had then."""

    shop: Shop
    pages: dict[str, bytes | Respond]
    gets: Counter[str]


class MaterializedShops:
    """Materializes a shop of each kind once; a context manager that runs their servers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shops: dict[Build, _Materialized] = {}
        self._servers = ExitStack()

    def restore(self, build: Build) -> Shop:
        """The shop that `build` declares, with its server, as they were after the first run.

        It is the same folder for every test: the tables know the paths of their sources.
        """
        if build not in self._shops:
            self._shops[build] = self._materialize(build)
        materialized = self._shops[build]
        shop = materialized.shop
        shutil.rmtree(shop.project.root)
        shutil.copytree(_saved(shop), shop.project.root)
        shop.web.pages.clear()
        shop.web.pages.update(materialized.pages)
        shop.web.gets.clear()
        shop.web.gets.update(materialized.gets)
        return replace(shop, rows=dict(shop.rows))

    def _materialize(self, build: Build) -> _Materialized:
        web = self._servers.enter_context(Web())
        shop = build(self._folder / str(len(self._shops)), web)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(COUNTER, str(shop.counter))
            assert shop.project.materialize()
        shutil.copytree(shop.project.root, _saved(shop))
        return _Materialized(shop, dict(web.pages), Counter(web.gets))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._servers.close()


def _saved(shop: Shop) -> Path:
    """Where the project is as it was after the first run."""
    return shop.project.root.with_name("saved")
