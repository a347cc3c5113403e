"""Frames that stay in memory."""

from __future__ import annotations

import polars as pl

from imgsim_assets.service.frame_cache import FrameCache


def test_empty_frames_leave_as_well() -> None:
    cache = FrameCache(max_bytes=10_000)
    reads = []

    def read() -> pl.DataFrame:
        reads.append(1)
        return pl.DataFrame()

    for key in range(100):
        cache.get(key, read)
    assert cache.bytes <= 10_000
    cache.get(99, read)
    assert len(reads) == 100

    cache.get(0, read)
    assert len(reads) == 101


def test_a_frame_that_two_threads_read_is_counted_once() -> None:
    cache = FrameCache(max_bytes=10_000)
    cache.get("a", pl.DataFrame)
    counted = cache.bytes

    cache._keep("a", pl.DataFrame())

    assert cache.bytes == counted
