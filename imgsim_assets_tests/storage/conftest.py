from __future__ import annotations

from collections.abc import Iterator

import pytest

from imgsim_assets_tests.support import s3


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3.running() as endpoint:
        yield endpoint


@pytest.fixture
def s3_root(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket."""
    for name, value in s3.environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return s3.new_bucket()
