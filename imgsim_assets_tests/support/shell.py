"""Run `imgsim` in this process, in a temporary folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imgsim_assets.cli.main import main
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.web import Web

FACTORY = ("--factory", "imgsim_assets_tests.support.encoders:thumbnail")
THUMBNAIL = (
    "--encoder",
    "imgsim_assets_tests.support.encoders:thumbnail",
    "--encoder-version",
    "1",
)


@dataclass(frozen=True)
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """Runs commands in a working folder with a store."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> CommandResult:
        self.capture.readouterr()
        code = main([*arguments])
        captured = self.capture.readouterr()
        return CommandResult(code, captured.out, captured.err)

    def match(self, left: str, right: str, *more: str) -> CommandResult:
        """`imgsim match` with the thumbnail encoder, which needs no weights."""
        return self("match", left, right, *THUMBNAIL, *more)

    def match_copy(self, name: str, *more: str) -> CommandResult:
        """Match a list or folder with a copy of it, so that every item finds itself."""
        copy = f"copy_of_{name}"
        if (self.folder / name).is_dir():
            shutil.copytree(self.folder / name, self.folder / copy, dirs_exist_ok=True)
        else:
            shutil.copy(self.folder / name, self.folder / copy)
        return self.match(name, copy, *more)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def write_images(self, *seeds: int) -> None:
        """Write an image SEED.jpg for each seed."""
        for seed in seeds:
            self.write(f"{seed}.jpg", jpeg(seed))

    def table(self, name: str) -> pl.DataFrame:
        """Read a TSV file that a command wrote; all columns are text."""
        return pl.read_csv(self.folder / name, separator="\t", infer_schema=False)

    @property
    def store(self) -> Store:
        return Store.open(self.folder / "data" / "store")


def match_web_list(shell: Shell, web: Web, *more: str) -> str:
    """Match a list of three URLs with itself and return the name of its catalog."""
    shell.write("list.csv", "id,url\n" + "".join(f"{n},{web.url(f'/{n}.jpg')}\n" for n in range(3)))
    result = shell.match("list.csv", "list.csv", "--allowed-host", web.address, "--json", *more)
    name: str = result.json["left"]["catalog"]
    return name


def unavailable(request: BaseHTTPRequestHandler) -> None:
    """Answer a request with status 503 and a retry time of an hour."""
    request.send_response(503)
    request.send_header("Content-Length", "0")
    request.send_header("Retry-After", "3600")
    request.end_headers()
