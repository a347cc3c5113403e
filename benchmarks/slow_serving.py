"""A file server with latency that also fails in every way, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web


def application(folder: Path, latency: float) -> web.Application:
    """Serves a folder; /_404, /_500, /_reset, /_short, /_html and /_loop fail."""

    async def answer(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        await asyncio.sleep(latency)
        if name == "_reset" and request.transport is not None:
            request.transport.abort()
        if name == "_short":
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b"short")
            if request.transport is not None:
                request.transport.close()
            return response
        if name == "_loop":
            raise web.HTTPFound(request.rel_url)
        if name == "_html":
            return web.Response(text="<html>log in</html>")
        if name.startswith("_"):
            return web.Response(status=int(name[1:]) if name[1:].isdigit() else 500)
        return web.FileResponse(folder / name)

    made = web.Application()
    made.router.add_get("/{name}", answer)
    return made


async def _serve(folder: Path, latency: float) -> None:
    runner = web.AppRunner(application(folder, latency), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def slow_server(folder: Path, latency: float) -> Iterator[str]:
    """Serve a folder from another process while the context lasts; gives its host:port."""
    command = [sys.executable, "-m", "benchmarks.slow_serving", str(folder), str(latency)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2])))
