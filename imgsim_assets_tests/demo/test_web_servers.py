"""Dagster's web server and the pages side by side; another program stands in for Dagster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsim_assets_tests.support.ports import free_port
from imgsim_assets_tests.support.processes import BUSY_S

_ROOT = Path(__file__).parents[2]
# Answers as Dagster's web server does, and tells how it ends.
_DAGSTER = """
import http.server, signal, sys
def end(*_):
    print("dagster was interrupted", flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, end)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""
_RUN = """
import sys
from pathlib import Path
from imgsim_assets.demo.web_servers import run_web_servers
dagster = [sys.executable, sys.argv[1]]
sys.exit(run_web_servers(dagster, Path(sys.argv[2]), port=sys.argv[3], serve_port=sys.argv[4]))
"""


@pytest.fixture
def ports() -> tuple[str, str]:
    return str(free_port()), str(free_port())


@pytest.fixture
def servers(tmp_path: Path, ports: tuple[str, str]) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path / "dagster_server.py"
    script.write_text(_DAGSTER)
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(script), str(tmp_path), *ports],
        env={**os.environ, "PYTHONPATH": str(_ROOT), "IMGSIM_STORE": str(tmp_path / "store")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=BUSY_S)


def _read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(seen)


def test_both_addresses_are_printed_and_an_interrupt_stops_both(
    servers: subprocess.Popen[str], ports: tuple[str, str]
) -> None:
    said = _read_until(servers, "Ctrl-C stops both")
    servers.send_signal(signal.SIGINT)
    rest, _ = servers.communicate(timeout=BUSY_S)

    for port in ports:
        assert f"http://127.0.0.1:{port}\n" in said
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port)))
    assert servers.returncode == 0
    assert "dagster was interrupted" in rest
    assert "Traceback" not in rest


def test_a_server_that_ends_stops_the_other_one(tmp_path: Path, ports: tuple[str, str]) -> None:
    script = tmp_path / "dagster_server.py"
    script.write_text("import sys; sys.exit('no such port')")
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(script), str(tmp_path), *ports],
        env={**os.environ, "PYTHONPATH": str(_ROOT), "IMGSIM_STORE": str(tmp_path / "store")},
        capture_output=True,
        text=True,
        timeout=BUSY_S,
        check=False,
    )

    assert done.returncode == 1
    assert "dagster has ended; stopping the other server" in done.stderr
