"""Many writers that append vectors to one table of a slow store: latency and lost races.

python -m benchmarks.vector_writers [--writers 32] [--seconds 30] [--request-ms 30]

Every call of the store's files takes the time of one request, so that the result depends on the
number of requests and on races rather than on the disk. The writers are threads of one process.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import threading
import time
from collections import Counter
from typing import Any

import numpy as np

from imgsim_assets.encoders.vector_files import vector_files
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.store import Store, open_files

_DIM = 64
_ROWS = 16


class SlowFiles:
    """Files of which every call takes one round trip; counts calls and lost races."""

    def __init__(self, files: Files, request_s: float) -> None:
        self._files = files
        self._request_s = request_s
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._files, name)
        if not callable(value) or name == "local_path":
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            # The object store acts in the middle of the round trip.
            time.sleep(self._request_s / 2)
            try:
                return value(*arguments, **options)
            except FileExistsError:
                self.calls["lost"] += 1
                raise
            finally:
                time.sleep(self._request_s / 2)

        return call


def _write(
    files: SlowFiles, writer: int, seconds: float, interval_s: float, latencies: list[float]
) -> None:
    table = VectorTable(Store(files), "shop", "f" * 16)
    chance = random.Random(writer)
    due = time.monotonic() + chance.uniform(0, interval_s)
    end = time.monotonic() + seconds
    turn = 0
    while due < end:
        time.sleep(max(due - time.monotonic(), 0))
        keys = [hashlib.sha256(f"{writer}-{turn}-{n}".encode()).hexdigest() for n in range(_ROWS)]
        vectors = np.full((_ROWS, _DIM), 1 / np.sqrt(_DIM), np.float32)
        started = time.monotonic()
        table.append(VectorRows(keys, vectors, np.ones(_ROWS, np.float32)))
        latencies.append(time.monotonic() - started)
        due = max(due + interval_s, time.monotonic())
        turn += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--interval", type=float, default=2)
    parser.add_argument("--request-ms", type=float, default=30)
    options = parser.parse_args()
    files = SlowFiles(open_files("memory://vector_writers"), options.request_ms / 1000)
    latencies: list[float] = []
    writers = [
        threading.Thread(
            target=_write, args=(files, number, options.seconds, options.interval, latencies)
        )
        for number in range(options.writers)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    newest = VectorTable(Store(files), "shop", "f" * 16).table.latest()
    if newest is None:
        raise SystemExit("no append")
    median, p95 = np.percentile(latencies, [50, 95])
    print(
        f"{len(latencies)} appends, {newest.version} commits, {files.calls['lost']} lost races; "
        f"append median {median:.2f} s, p95 {p95:.2f} s, max {max(latencies):.2f} s; "
        f"{len(vector_files(newest))} files at the end"
    )


if __name__ == "__main__":
    main()
