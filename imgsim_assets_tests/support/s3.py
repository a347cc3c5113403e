"""An S3 server on loopback that honors If-None-Match."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator, Mapping

import fsspec
from moto.server import ThreadedMotoServer


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Serve S3 from this process; yields the endpoint's URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    # fsspec caches clients together with their endpoint.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        server.stop()


def environment(endpoint: str) -> Mapping[str, str]:
    """The environment variables of a client of the endpoint."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "NO_PROXY": "127.0.0.1",
    }


def new_bucket() -> str:
    """Create a bucket for one test, and return its URL."""
    name = f"test-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(name)
    return f"s3://{name}"
