"""Compares the downloader with a bare aiohttp loop and img2dataset, over loopback from nginx.

    python -m benchmarks.download --images caltech101.tar --img2dataset venv/bin/img2dataset \
        --work /tmp/download

Needs nginx. Parts: `speed` (alternating rounds, the median), `failures` (200 ms latency, with
and without 2 % of failing URLs), `memory` (10,000 and 100,000 small images, and a second run
over the unchanged 100,000), `local` (20,000 JPEGs of 96 px from a folder, in both modes of
`image_bytes`, beside the same over HTTP). Every candidate runs in its own process, whose start is
not counted; another process ingests the catalog.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

from benchmarks.slow_serving import slow_server
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.stage import ItemsStage
from imgsim_assets.demo.loopback import open_loopback
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.stage import DownloadReport, ImagesStage
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store

CONCURRENCY = 64
LATENCY_SECONDS = 0.2
FAILING_FRACTION = 0.02
SILENT_FRACTION = 0.002
SILENT_SERVERS = 3
SMALL_IMAGES = (10_000, 100_000)
LOCAL_IMAGES = 20_000
# img2dataset's processes and threads: the best of (1, 32), (1, 64), (2, 16), (2, 32), (2, 64),
# (2, 128) and (4, 32) on two cores.
PEER_SETTING = (2, 16)

_NGINX = """
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_requests 10000000; default_type image/jpeg;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="tar of images, for speed and failures")
    parser.add_argument("--img2dataset", type=Path, help="its executable, of another venv")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, emptied first")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=1, help="of each image, unlike in a byte")
    parser.add_argument("--parts", nargs="+", default=["speed", "failures", "memory"])
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.candidate:
        print(json.dumps(_CANDIDATES[options.candidate](options.work)))
        return
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    parts = {"speed": _speed, "failures": _failures, "memory": _memory, "local": _local}
    print(json.dumps({name: parts[name](options) for name in options.parts}, indent=2))


# ---- speed ------------------------------------------------------------------------------


def _speed(options: argparse.Namespace) -> dict[str, Any]:
    folder = _unpacked(options)
    candidates = [
        "aiohttp loop",
        "imgsim_assets",
        *(["img2dataset"] if options.img2dataset else []),
    ]
    rates: dict[str, list[float]] = {candidate: [] for candidate in candidates}
    with _nginx(folder, options.work) as address:
        urls = [f"http://{address}/{path.name}" for path in sorted(folder.iterdir())]
        _write_urls(options.work, urls)
        for _ in range(options.rounds):
            _run_candidate(options, "ingest")
            for candidate in candidates:
                measured = (
                    _img2dataset(options)
                    if candidate == "img2dataset"
                    else _run_candidate(options, candidate)
                )
                if measured["images"] != len(urls):
                    sys.exit(f"{candidate} got {measured['images']} of {len(urls)} images")
                rates[candidate].append(measured["images"] / measured["seconds"])
                print(
                    f"{candidate}: {rates[candidate][-1]:.0f} images/s", file=sys.stderr, flush=True
                )
    medians = {candidate: statistics.median(found) for candidate, found in rates.items()}
    return {
        "images per second, median": {
            candidate: round(rate) for candidate, rate in medians.items()
        },
        "all rounds": {
            candidate: [round(rate) for rate in found] for candidate, found in rates.items()
        },
        "of a bare loop": round(medians["imgsim_assets"] / medians["aiohttp loop"], 2),
        "times img2dataset": round(medians["imgsim_assets"] / medians["img2dataset"], 2)
        if options.img2dataset
        else None,
    }


def _measure_bare_aiohttp(work: Path) -> dict[str, float]:
    """Fetch everything with aiohttp alone, and throw it away."""
    urls = (work / "urls.txt").read_text().split()

    async def fetch_all() -> float:
        left = iter(urls)
        connector = aiohttp.TCPConnector(limit=CONCURRENCY)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def fetch() -> None:
                for url in left:
                    async with session.get(url) as response:
                        await response.read()

            started = time.perf_counter()
            await asyncio.gather(*(fetch() for _ in range(CONCURRENCY)))
            return time.perf_counter() - started

    return {"images": len(urls), "seconds": asyncio.run(fetch_all())}


def _ingest(work: Path) -> dict[str, float]:
    """A store whose catalog lists the URLs, and nothing else."""
    folder = work / "ours"
    urls = (work / "urls.txt").read_text().split()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    lines = (json.dumps({"id": f"{number:07}", "url": url}) for number, url in enumerate(urls))
    (folder / "urls.jsonl").write_text("\n".join(lines))
    root = str(work) if urls[0].startswith("/") else None
    store, settings = Store.open(folder / "store"), SourceSettings(path="urls.jsonl", root=root)
    ItemsStage(store, "images", settings, shards=1, project_root=folder).run()
    return {}


def _measure_imgsim(work: Path, **changes: Any) -> dict[str, float]:
    """Fetch everything into the store, with blobs and ledger."""
    store = Store.open(work / "ours/store")
    settings = DownloadSettings(
        **{"allowed_hosts": ("127.0.0.1",), "max_per_host": CONCURRENCY, "concurrency": CONCURRENCY}
        | changes
    )
    started = time.perf_counter()
    with ImagesStage(store, "images", settings) as stage:
        report = stage.run(Shard(0, 1))
    return _measured(report, time.perf_counter() - started)


def _measured(report: DownloadReport, seconds: float) -> dict[str, Any]:
    return {
        "images": report.statuses.get("ok", 0),
        "seconds": seconds,
        "requested": report.requested,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "statuses": report.statuses,
    }


def _img2dataset(options: argparse.Namespace) -> dict[str, float]:
    output = options.work / "img2dataset"
    shutil.rmtree(output, ignore_errors=True)
    processes, threads = PEER_SETTING
    count = len((options.work / "urls.txt").read_text().split())
    command = [
        options.img2dataset,
        *("--url_list", options.work / "urls.txt", "--output_folder", output),
        *("--resize_mode", "no", "--output_format", "webdataset", "--enable_wandb", "False"),
        *("--processes_count", processes, "--thread_count", threads),
        *("--number_sample_per_shard", -(-count // processes)),
    ]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    stats = [json.loads(path.read_text()) for path in output.glob("*_stats.json")]
    return {
        "images": sum(shard["successes"] for shard in stats),
        "seconds": max(shard["end_time"] for shard in stats)
        - min(shard["start_time"] for shard in stats),
    }


# ---- failures ---------------------------------------------------------------------------


def _failures(options: argparse.Namespace) -> dict[str, Any]:
    """The same images with latency, with and without failing URLs among them."""
    folder = _unpacked(options)
    seconds: dict[str, list[float]] = {"all good": [], "2 % failing": []}
    statuses: dict[str, int] = {}
    with slow_server(folder, LATENCY_SECONDS) as address, _silent_servers() as silent:
        good = [f"http://{address}/{path.name}" for path in sorted(folder.iterdir())]
        lists = {"all good": good, "2 % failing": _with_failures(good, address, silent)}
        for _ in range(options.rounds):
            for kind, found in seconds.items():
                _write_urls(options.work, lists[kind])
                _run_candidate(options, "ingest")
                measured = _run_candidate(options, "latency")
                found.append(measured["seconds"])
                statuses = measured["statuses"]
                print(f"{kind}: {found[-1]:.2f} s", file=sys.stderr, flush=True)
    medians = {kind: statistics.median(found) for kind, found in seconds.items()}
    return {
        "seconds": {kind: [round(one, 2) for one in found] for kind, found in seconds.items()},
        "times as long": round(medians["2 % failing"] / medians["all good"], 3),
        "statuses": statuses,
    }


@contextlib.contextmanager
def _silent_servers() -> Iterator[list[str]]:
    """Servers that take connections and requests and never say anything; their host:port."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(SILENT_SERVERS)
        ]
        yield [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]


def _with_failures(urls: Sequence[str], address: str, silent: Sequence[str]) -> list[str]:
    """The URLs with a share of them failing in every way the server knows, and by name.

    Those that get no answer at all are on the `silent` hosts.
    """
    rng = random.Random(0)
    urls_with_failures = list(urls)
    failing = rng.sample(range(len(urls)), round(len(urls) * FAILING_FRACTION))
    unanswered = round(len(urls) * SILENT_FRACTION)
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    others = [
        *(f"http://{address}/_{kind}" for kind in ("404", "500", "reset", "short", "html", "loop")),
        f"http://127.0.0.1:{port}/closed",
        "http://10.0.0.1/internal",
        "http://no.such.host.invalid/name",
    ]
    for number, position in enumerate(failing):
        dead = f"http://{silent[number % len(silent)]}/"
        base = dead if number < unanswered else others[number % len(others)]
        urls_with_failures[position] = f"{base}?{number}"
    return urls_with_failures


def _latency(work: Path) -> dict[str, float]:
    return _measure_imgsim(work, timeout_s=5.0, retries=1)


# ---- memory -----------------------------------------------------------------------------


def _memory(options: argparse.Namespace) -> dict[str, Any]:
    folder = options.work / "small"
    folder.mkdir()
    for number in range(max(SMALL_IMAGES)):
        color = (number & 255, number >> 8 & 255, number >> 16)
        Image.new("RGB", (4, 4), color).save(folder / f"{number}.png", compress_level=1)
    peaks = {}
    with _nginx(folder, options.work) as address:
        for count in SMALL_IMAGES:
            _write_urls(options.work, [f"http://{address}/{n}.png" for n in range(count)])
            _run_candidate(options, "ingest")
            measured = _run_candidate(options, "imgsim_assets")
            peaks[count] = measured["peak MiB"]
        again = _run_candidate(options, "imgsim_assets")
    return {
        "peak MiB": {count: round(peak) for count, peak in peaks.items()},
        "times as much": round(peaks[SMALL_IMAGES[1]] / peaks[SMALL_IMAGES[0]], 2),
        "images per second": round(measured["images"] / measured["seconds"]),
        "second run": {"seconds": round(again["seconds"], 2), "requested": again["requested"]},
    }


# ---- local files ------------------------------------------------------------------------


def _local(options: argparse.Namespace) -> dict[str, Any]:
    """The same images from a folder and from nginx, alternating."""
    folder = options.work / "local"
    folder.mkdir()
    rng = random.Random(0)
    for number in range(LOCAL_IMAGES):
        pixels = Image.frombytes("RGB", (12, 12), rng.randbytes(12 * 12 * 3))
        pixels.resize((96, 96)).save(folder / f"{number:05}.jpg", quality=85)
    names = [path.name for path in sorted(folder.iterdir())]
    rates: dict[str, list[float]] = {"HTTP": [], "reference": [], "copy": []}
    with _nginx(folder, options.work) as address:
        for _ in range(options.rounds):
            for kind, found in rates.items():
                base = f"http://{address}" if kind == "HTTP" else str(folder)
                _write_urls(options.work, [f"{base}/{name}" for name in names])
                _run_candidate(options, "ingest")
                measured = _run_candidate(options, "imgsim_assets" if kind == "HTTP" else kind)
                if measured["images"] != len(names):
                    sys.exit(f"{kind} got {measured['images']} of {len(names)} images")
                found.append(measured["images"] / measured["seconds"])
                print(f"{kind}: {found[-1]:.0f} images/s", file=sys.stderr, flush=True)
    return {
        "images per second, median": {
            kind: round(statistics.median(found)) for kind, found in rates.items()
        },
        "all rounds": {kind: [round(rate) for rate in found] for kind, found in rates.items()},
    }


def _reference(work: Path) -> dict[str, float]:
    return _measure_imgsim(work, image_bytes="reference")


def _copy(work: Path) -> dict[str, float]:
    return _measure_imgsim(work, image_bytes="copy")


# ---- processes --------------------------------------------------------------------------

_CANDIDATES = {
    "aiohttp loop": _measure_bare_aiohttp,
    "imgsim_assets": _measure_imgsim,
    "latency": _latency,
    "reference": _reference,
    "copy": _copy,
    "ingest": _ingest,
}


def _run_candidate(options: argparse.Namespace, candidate: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.download", "--candidate", candidate]
    paths = ["--images", str(options.images), "--work", str(options.work)]
    done = subprocess.run([*command, *paths], stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _unpacked(options: argparse.Namespace) -> Path:
    folder: Path = options.work / "images"
    if not folder.exists():
        folder.mkdir()
        with tarfile.open(options.images) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name.endswith(".jpg") else None
                if file is not None:
                    _write_copies(
                        folder, member.name.replace("/", "_"), file.read(), options.copies
                    )
    return folder


def _write_copies(folder: Path, name: str, data: bytes, copies: int) -> None:
    """The image, and copies of it that differ behind its end."""
    for number in range(copies):
        (folder / (f"{number}_{name}" if number else name)).write_bytes(data + b"\0" * number)


def _write_urls(work: Path, urls: Sequence[str]) -> None:
    (work / "urls.txt").write_text("\n".join(urls))


@contextlib.contextmanager
def _nginx(folder: Path, work: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Its workers run as another user, who has to reach the files.
    for place in (work, folder):
        place.chmod(0o755)
    configuration = work / "nginx.conf"
    configuration.write_text(_NGINX.format(work=work, folder=folder, port=port))
    process = subprocess.Popen(["nginx", "-c", str(configuration)])
    try:
        first = next(folder.iterdir()).name
        for _ in range(50):
            with (
                contextlib.suppress(OSError),
                open_loopback(f"http://127.0.0.1:{port}/{first}", timeout=10),
            ):
                break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
