"""Running `imgsim` in this process, in a folder of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imgsim_assets.cli.main import main
from imgsim_assets.storage.store import Store

THUMBNAIL = (
    "--encoder",
    "imgsim_assets_tests.support.encoders:thumbnail",
    "--encoder-version",
    "1",
)


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """A working folder with a store, in which commands run."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Ran:
        self.capture.readouterr()
        code = main([*arguments])
        said = self.capture.readouterr()
        return Ran(code, said.out, said.err)

    def match(self, left: str, right: str, *more: str) -> Ran:
        """`imgsim match` with the thumbnail encoder, which needs no weights."""
        return self("match", left, right, *THUMBNAIL, *more)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def table(self, name: str) -> pl.DataFrame:
        """A TSV that a command wrote, as text."""
        return pl.read_csv(self.folder / name, separator="\t", infer_schema=False)

    @property
    def store(self) -> Store:
        return Store.open(self.folder / "data" / "store")
