"""A file server in a process of its own that counts GETs, for benchmarks on loopback."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from imgsim_assets.demo.loopback import open_loopback

_COUNT = "/_gets"


@dataclass(frozen=True)
class Server:
    """Where the files are, as host:port."""

    address: str

    def url(self, path: str) -> str:
        """The URL of a file of the folder."""
        return f"http://{self.address}/{path}"

    def gets(self) -> int:
        """Requests for files so far, as the server counted them."""
        with open_loopback(f"http://{self.address}{_COUNT}", timeout=10) as response:
            return int(json.load(response))


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve a folder on a free port while the context lasts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        server = Server(f"127.0.0.1:{port}")
        for _ in range(100):
            with contextlib.suppress(OSError):
                server.gets()
                break
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()


def _application(folder: Path) -> web.Application:
    count = 0

    async def file(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        path = folder / request.match_info["path"]
        return web.FileResponse(path) if path.is_file() else web.Response(status=404)

    async def gets(_: web.Request) -> web.Response:
        return web.json_response(count)

    application = web.Application()
    application.router.add_get(_COUNT, gets)
    application.router.add_get("/{path:.+}", file)
    return application


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder

    def tell_port(text: str) -> None:
        # aiohttp announces the address it really bound.
        for line in text.splitlines():
            if "http://" in line:
                print(line.rsplit(":", 1)[1].rstrip("/ ="), flush=True)

    web.run_app(_application(folder), host="127.0.0.1", port=0, print=tell_port)


if __name__ == "__main__":
    _main()
