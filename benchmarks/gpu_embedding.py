"""Decoding on a GPU: images per second of the stage with both decoders, CPU and GPU.

    python -m benchmarks.embedding --images caltech101.tar --gpu cuda --weights FOLDER

For each backbone and each decoder it measures, each in a process of its own, `--rounds` times,

    stage      the embeddings stage: stored bytes to committed vectors
    decode     decoding and resizing alone: all cores, or the GPU's decoder
    forward    forward passes alone, of batches in the memory where that decoder leaves them

and prints the medians, the ratio of the stage to the slower of decode and forward, the share of
its time spent on decoding, and how well the vectors of both decoders agree. FOLDER has
BACKBONE.pth files; other backbones get random weights, whose agreement means nothing. `--gpu cpu`
runs without a GPU: torchvision's libjpeg replaces nvJPEG.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from imgsim_assets.encoders import torch_encoder
from imgsim_assets.encoders.encoder import gpu_decodable_jpeg, load_encoder, min_decode_size
from imgsim_assets.encoders.hardware import has_bf16, usable_cores
from imgsim_assets.encoders.report import EmbeddingReport
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.images.decode import decode
from imgsim_assets.images.jpeg import Jpeg
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import fill, sha256_of
from imgsim_assets_tests.support.weights import save_weights, untrained

BACKBONES = ("mobilenet_v3_large", "resnet50")
DECODERS: tuple[Literal["cpu", "gpu"], ...] = ("cpu", "gpu")
PARTS = ("stage", "decode", "forward")
# Load encoders, decoders and kernels before the measurement.
_WARMUP_IMAGES = 32


def compare(args: argparse.Namespace) -> None:
    """Measure every backbone, and print a line for each decoder."""
    print(f"{_name_of(args.gpu)}, {usable_cores()} cores, {args.count} images")
    print("| backbone | decode | stage | decode alone | forward alone | of the slower | decoding |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in BACKBONES:
            trained = args.weights / f"{name}.pth" if args.weights else None
            random = Path(folder) / f"{name}.pth"
            has_weights = trained is not None and trained.exists()
            weights = trained if has_weights else save_weights(untrained(name), random)
            rounds = [_round(args, name, str(weights)) for _ in range(args.rounds)]
            for decoder in DECODERS:
                _print_decoder(name, decoder, rounds)
            print(_child(args, f"{name}/gpu/cosine", str(weights)), flush=True)


def measure(args: argparse.Namespace, images: Mapping[str, bytes]) -> dict[str, float]:
    """Measure one part in this process: images per second, or the agreement of both decoders."""
    name, decoder, part = args.variant.split("/")
    images = dict(islice(images.items(), args.count))
    with _cpu_as_gpu() if args.gpu == "cpu" else nullcontext():
        settings = _settings(args, name, decoder)
        if part == "cosine":
            return _cosines(args, name, images)
        if part == "stage":
            return _stage(settings, images)
        encoder: Any = load_encoder(settings)
        return (_decode if part == "decode" else _forward)(encoder, list(images.values()))


def _round(args: argparse.Namespace, name: str, weights: str) -> dict[str, dict[str, float]]:
    variants = [f"{name}/{decoder}/{part}" for part in PARTS for decoder in DECODERS]
    return {variant: _child(args, variant, weights) for variant in variants}


def _child(args: argparse.Namespace, variant: str, weights: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.embedding", "--images", str(args.images)]
    command += ["--gpu", args.gpu, "--count", str(args.count)]
    command += ["--weights", weights, "--variant", variant]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(variant, measured, file=sys.stderr, flush=True)
    return measured


def _print_decoder(
    name: str, decoder: str, rounds: Sequence[Mapping[str, dict[str, float]]]
) -> None:
    rates = {
        part: [measured[f"{name}/{decoder}/{part}"]["images/s"] for measured in rounds]
        for part in PARTS
    }
    # Ratios are of the parts of one round.
    reached = [
        stage / min(decoded, forward)
        for stage, decoded, forward in zip(*rates.values(), strict=True)
    ]
    share = [measured[f"{name}/{decoder}/stage"]["share of decoding"] for measured in rounds]
    stage, decoded, forward = (statistics.median(rates[part]) for part in PARTS)
    print(
        f"| {name} | {decoder} | {stage:.0f} | {decoded:.0f} | {forward:.0f} "
        f"| {statistics.median(reached):.2f} | {statistics.median(share):.0%} |",
        flush=True,
    )


# ---- parts ------------------------------------------------------------------------------


def _settings(args: argparse.Namespace, name: str, decoder: str) -> EncoderSettings:
    on_cpu = args.gpu == "cpu"
    fast = has_bf16() if on_cpu else torch.cuda.is_bf16_supported()
    return EncoderSettings(
        name=name,
        weights=str(args.weights),
        device={"cpu": "auto", "cuda": "cuda:0"}.get(args.gpu, args.gpu),  # one GPU
        precision="bf16" if fast else "fp32",
        decode="gpu" if decoder == "gpu" else "cpu",
    )


def _stage(settings: EncoderSettings, images: Mapping[str, bytes]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        report, seconds = _embedded(Store.open(folder), settings, images)
    spent = {part: 1 / rate for part, rate in report.images_per_second.items()}
    return {
        "images/s": report.embedded / seconds,
        "share of decoding": spent["decode"] / sum(spent.values()),
    }


def _embedded(
    store: Store, settings: EncoderSettings, images: Mapping[str, bytes]
) -> tuple[EmbeddingReport, float]:
    """The report of the stage on all images, and its seconds after a warm-up."""
    stage = EmbeddingStage(store, "shop", settings)
    (shard,) = fill(store, "shop", dict(islice(images.items(), _WARMUP_IMAGES)))
    stage.run(shard)
    (shard,) = fill(store, "shop", dict(images))
    started = time.perf_counter()
    report = stage.run(shard)
    return report, time.perf_counter() - started


def _decode(encoder: Any, images: Sequence[bytes]) -> dict[str, float]:
    def prepare(data: bytes) -> Jpeg | None:
        left = gpu_decodable_jpeg(data, encoder)
        if left is None:
            encoder.prepare(decode(data, min_size=min_decode_size(encoder)))
        return left

    def run(part: Sequence[bytes]) -> None:
        left = [jpeg for jpeg in pool.map(prepare, part) if jpeg is not None]
        for at in range(0, len(left), encoder.batch_size):
            encoder.jpeg_decoder.decode(left[at : at + encoder.batch_size])

    with ThreadPoolExecutor(usable_cores()) as pool:
        run(images[:_WARMUP_IMAGES])
        started = time.perf_counter()
        run(images)
        return {"images/s": len(images) / (time.perf_counter() - started)}


def _forward(encoder: Any, images: Sequence[bytes]) -> dict[str, float]:
    size = encoder.batch_size
    few = [encoder.prepare(decode(data)) for data in images[:size]]
    full = np.stack([few[at % len(few)] for at in range(size)])
    batch = full if encoder.jpeg_decoder is None else torch.from_numpy(full).to(encoder.device)
    batches = [batch] * max(8, len(images) // size)
    replicas = encoder.replicas(usable_cores())
    with ThreadPoolExecutor(len(replicas), initializer=encoder.use_one_thread) as pool:
        list(pool.map(encoder.encode, batches[:4]))
        started = time.perf_counter()
        list(pool.map(encoder.encode, batches))
        return {"images/s": size * len(batches) / (time.perf_counter() - started)}


def _cosines(args: argparse.Namespace, name: str, images: Mapping[str, bytes]) -> dict[str, float]:
    """Cosines of the vectors of both decoders, and the share of images decoded on the GPU."""
    sha256s = [sha256_of(data) for data in images.values()]
    vectors: list[NDArray[np.float32]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        for decoder in DECODERS:
            report, _ = _embedded(store, _settings(args, name, decoder), images)
            read = VectorTable(store, "shop", report.fingerprint).read(sha256s)
            at = {sha256: position for position, sha256 in enumerate(read.sha256)}
            vectors.append(read.vectors[[at[sha256] for sha256 in sha256s]])
    cosines = (vectors[0].astype(np.float64) * vectors[1]).sum(axis=1)
    encoder = load_encoder(_settings(args, name, "gpu"))
    left = [gpu_decodable_jpeg(data, encoder) is not None for data in images.values()]
    return {
        "median cosine": round(float(np.median(cosines)), 6),
        "1 % below": round(float(np.quantile(cosines, 0.01)), 6),
        "lowest": round(float(cosines.min()), 6),
        "share decoded on the GPU": round(float(np.mean(left)), 4),
    }


def _name_of(device: str) -> str:
    return "the CPU in place of a GPU" if device == "cpu" else torch.cuda.get_device_name(device)


@contextmanager
def _cpu_as_gpu() -> Iterator[None]:
    """Use the CPU as if it were a GPU."""
    cpu = [torch.device("cpu")]
    with mock.patch.multiple(
        torch_encoder, resolve_devices=lambda _: cpu, require_gpu_for_decoding=lambda *_: None
    ):
        yield
