"""S3 servers on loopback: moto and localbucket honor If-None-Match, nanio ignores it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from imgsim_assets_tests.support.ports import free_port


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Serve S3 from this process; yields the endpoint's URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextlib.contextmanager
def serving(name: str, folder: Path) -> Iterator[str]:
    """Run the server localbucket or nanio over a folder; yields the endpoint's URL."""
    port = str(free_port())
    command = {
        "localbucket": [str(folder), "--host", "127.0.0.1", "--port", port],
        "nanio": ["serve", "--data-dir", str(folder), "--host", "127.0.0.1", "--port", port],
    }
    credentials = {"NANIO_ACCESS_KEY": "test", "NANIO_SECRET_KEY": "test"}
    with subprocess.Popen(
        [sys.executable, "-m", name, *command[name]],
        env={**os.environ, **credentials},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            _wait_for(int(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def environment(endpoint: str) -> Mapping[str, str]:
    """The environment variables of a client of the endpoint."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "NO_PROXY": "127.0.0.1",
    }


def use(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let this process and its children use an endpoint; returns the URL of a new bucket."""
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # fsspec caches clients together with their endpoint.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return new_bucket()


def new_bucket() -> str:
    """Create a bucket for one test, and return its URL."""
    name = f"test-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(name)
    return f"s3://{name}"
