"""Dagster's web server and `imgsim serve` side by side, until one of them or a person stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from imgsim_assets.demo.loopback import open_loopback

SERVE_PORT = 8400
_HOST = "127.0.0.1"
_PATHS = {"dagster": "server_info", "imgsim serve": "healthz"}
_STOP_S = 30.0
_POLL_S = 0.5
# Dagster passes this parameter itself, and then warns that it is in beta.
_NO_WARNING = "ignore:Parameter `execution_type` of function"


def dagster_url(port: str) -> str:
    """The URL of Dagster's web server on this machine."""
    return f"http://{_HOST}:{port}"


def serve_url(port: str) -> str:
    """The URL of the pages on this machine."""
    return f"http://{_HOST}:{port}"


def run_web_servers(dagster: Sequence[str], root: Path, *, port: str, serve_port: str) -> int:
    """Run both servers, which link to each other, and print their addresses once they answer.

    Args:
        dagster: the command of Dagster's web server, without its port.
        root: the project, whose store is served.
        port: of Dagster's web server.
        serve_port: of `imgsim serve`.

    Returns:
        0 after Ctrl-C or SIGTERM, else the exit code of the server that ended by itself.
    """
    urls = {"dagster": dagster_url(port), "imgsim serve": serve_url(serve_port)}
    serve = [sys.executable, "-m", "imgsim_assets.cli.main", "serve", "--host", _HOST]
    commands = {
        "dagster": [*dagster, "--port", port],
        "imgsim serve": [*serve, "--port", serve_port],
    }
    environment = {
        **os.environ,
        "IMGSIM_SERVE_URL": os.environ.get("IMGSIM_SERVE_URL") or urls["imgsim serve"],
        "IMGSIM_DAGSTER_URL": os.environ.get("IMGSIM_DAGSTER_URL") or urls["dagster"],
        "PYTHONWARNINGS": ",".join(filter(None, [_NO_WARNING, os.environ.get("PYTHONWARNINGS")])),
    }
    running: dict[str, subprocess.Popen[bytes]] = {}
    with _interrupted_by(signal.SIGINT, signal.SIGTERM):
        try:
            for name, command in commands.items():
                running[name] = _start(command, root, environment)
            return _wait(running, urls)
        except KeyboardInterrupt:
            return 0
        finally:
            _stop(list(running.values()))


def _start(
    command: Sequence[str], root: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    # A session of its own: a Ctrl-C reaches this process only, which then stops both once.
    return subprocess.Popen(command, cwd=root, env=environment, start_new_session=True)


def _wait(running: Mapping[str, subprocess.Popen[bytes]], urls: Mapping[str, str]) -> int:
    starting = set(running)
    while True:
        for name, server in running.items():
            if server.poll() is not None:
                print(f"{name} has ended; stopping the other server", file=sys.stderr)
                return server.returncode
        if starting:
            starting = {name for name in starting if not _answers(urls[name], _PATHS[name])}
            if not starting:
                print(f"\nDagster:            {urls['dagster']}", flush=True)
                print(f"review and explore: {urls['imgsim serve']}", flush=True)
                print("Ctrl-C stops both\n", flush=True)
        time.sleep(_POLL_S)


def _answers(url: str, path: str) -> bool:
    try:
        with open_loopback(f"{url}/{path}", timeout=2):
            return True
    except OSError:
        return False


def _stop(servers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Stop servers as Ctrl-C does, and kill what is left of them after a while."""
    for server in servers:
        _signal(server, signal.SIGINT)
    deadline = time.monotonic() + _STOP_S
    for server in servers:
        try:
            server.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            _signal(server, signal.SIGKILL)
            server.wait()


def _signal(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if server.poll() is None:
        os.killpg(server.pid, number)


@contextmanager
def _interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """Let signals end the block as Ctrl-C does, also where a shell has ignored that."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
