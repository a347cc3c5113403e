"""A Chromium that is installed on this machine; Playwright's own download is not needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright import sync_api

# The first page of a browser that has just started takes half a minute on a busy machine.
PATIENCE_MS = 120_000
sync_api.expect.set_options(timeout=PATIENCE_MS)
_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

needs_chromium = pytest.mark.skipif(
    _CHROMIUM is None, reason="there is no Chromium on this machine"
)


@contextmanager
def open_browser() -> Iterator[sync_api.Browser]:
    """Run the browser, and Playwright's event loop in this thread."""
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=_CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE_MS
        )
        yield opened
        opened.close()
