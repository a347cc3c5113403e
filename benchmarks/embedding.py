"""Embedding: images per second of the stage, beside a naive loop and ONNX Runtime.

    python -m benchmarks.embedding --images caltech101.tar --weights mobilenet_v2_imagenet.pth

Each variant runs in a process of its own, one after the other, `--rounds` times; the median
counts. The variants are

    naive      torchvision's transform, batches of 64, eager float32, no overlap
    stage      the embeddings stage: stored bytes to committed vectors, bf16 where the CPU has it
    stage32    the same in float32
    onnx       the stage with ONNX Runtime's float32 session as its encoder (needs the packages
               onnxruntime, onnx and onnxscript; skipped where they are missing)

"images per core second" divides by the CPU time of the process, which other work on the machine
disturbs less than elapsed time. `benchmarks.embedding_bound` compares the stage with what decoding
and forward passes alone allow.

With `--gpu DEVICE` it compares decoding on the CPU and on a GPU instead (benchmarks.gpu_embedding).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.settings import AUTO, BF16, FP32, EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import fill

VARIANTS = ("naive", "stage", "stage32", "onnx")
# The naive loop is slow, and fewer images suffice for its rate.
MAX_IMAGES = {"naive": 192}
_ONNX_FILE = "IMGSIM_BENCHMARK_ONNX"
_NEIGHBORS = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="tar of CLASS/NAME.jpg")
    parser.add_argument(
        "--weights", type=Path, help="mobilenet_v2 state dict; with --gpu, a folder of BACKBONE.pth"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1500, help="images per variant")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--quality", action="store_true", help="P@10 of bf16 and fp32 instead")
    parser.add_argument("--gpu", metavar="DEVICE", help="cuda, cuda:N, or cpu to try it there")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.gpu:
        _run_on_gpu(args)
    elif not args.weights:
        parser.error("--weights: give the state dict of a mobilenet_v2")
    elif args.variant:
        print(json.dumps(_measure(args)))
    elif args.quality:
        print(json.dumps(_quality(args), indent=2))
    else:
        _compare(args)


def _run_on_gpu(args: argparse.Namespace) -> None:
    from benchmarks import gpu_embedding

    if args.variant:
        print(json.dumps(gpu_embedding.measure(args, dict(members(args.images)))))
    else:
        gpu_embedding.compare(args)


def _compare(args: argparse.Namespace) -> None:
    variants = [variant for variant in args.variants if variant != "onnx" or _has_onnx()]
    measured: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(args.rounds):
        for variant in variants:
            arguments = [sys.executable, "-m", "benchmarks.embedding", *sys.argv[1:]]
            done = subprocess.run(
                [*arguments, "--variant", variant], stdout=subprocess.PIPE, text=True, check=True
            )
            measured[variant].append(json.loads(done.stdout.splitlines()[-1]))
            print(variant, measured[variant][-1], file=sys.stderr, flush=True)
    rate = {variant: _median(runs, "images/s") for variant, runs in measured.items()}
    print("| variant | images/s | images per core second | peak MiB |\n| --- | --- | --- | --- |")
    for variant, runs in measured.items():
        work = _median(runs, "images/core s")
        print(f"| {variant} | {rate[variant]:.0f} | {work:.0f} | {_median(runs, 'peak MiB'):.0f} |")
    print("by elapsed time:")
    _print_ratios(measured, "images/s")
    print("by core seconds:")
    _print_ratios(measured, "images/core s")


def _print_ratios(measured: dict[str, list[dict[str, float]]], rate: str) -> None:
    """Print ratios within a round, the median of all rounds."""

    def ratio(name: str, of: Callable[[dict[str, float]], float], *variants: str) -> None:
        if all(variant in measured for variant in variants):
            rounds = zip(*(measured[variant] for variant in variants), strict=True)
            values = [
                of({s: run[rate] for s, run in zip(variants, runs, strict=True)}) for runs in rounds
            ]
            print(f"{name}: {statistics.median(values):.2f}")

    for stage in ("stage", "stage32"):
        ratio(f"{stage} / naive", lambda r, s=stage: r[s] / r["naive"], stage, "naive")  # type: ignore[misc]
        ratio(f"{stage} / onnx", lambda r, s=stage: r[s] / r["onnx"], stage, "onnx")  # type: ignore[misc]


def _median(runs: Sequence[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


# ---- variants ------------------------------------------------------------------------------


def _measure(args: argparse.Namespace) -> dict[str, float]:
    variant = args.variant
    images = dict(islice(members(args.images), MAX_IMAGES.get(variant, args.count)))
    if variant == "naive":
        rate = _naive(list(images.values()), args.weights)
    else:
        precision = FP32 if variant == "stage32" else AUTO
        encoder = _onnx(args.weights) if variant == "onnx" else mobilenet(args.weights, precision)
        rate = _stage(images, encoder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images/s": rate[0], "images/core s": rate[1], "peak MiB": peak}


def members(archive: Path) -> Iterable[tuple[str, bytes]]:
    """Names and bytes of an archive's JPEGs, in an order that mixes its classes."""
    with tarfile.open(archive) as opened:
        members = sorted(opened.getmembers(), key=lambda m: (Path(m.name).name, m.name))
        for member in members:
            file = opened.extractfile(member) if member.isfile() else None
            if file is not None and member.name.endswith(".jpg"):
                yield member.name, file.read()


def mobilenet(weights: Path, precision: str) -> EncoderSettings:
    """MobileNetV2 on the CPU."""
    return EncoderSettings(
        name="mobilenet_v2", weights=str(weights.absolute()), device="cpu", precision=precision
    )


class _Stopwatch:
    """Images per second of elapsed time, and of CPU time of all threads."""

    def __init__(self) -> None:
        self._elapsed, self._cpu = time.perf_counter(), time.process_time()

    def rates(self, images: int) -> tuple[float, float]:
        elapsed = time.perf_counter() - self._elapsed
        cpu = time.process_time() - self._cpu
        return images / elapsed, images / cpu


def _naive(images: Sequence[bytes], weights: Path) -> tuple[float, float]:
    import torch
    import torchvision

    model = torchvision.models.mobilenet_v2(weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.classifier = torch.nn.Identity()
    model.eval()
    transform = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()

    def embed(part: Sequence[bytes]) -> None:
        opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in part]
        with torch.no_grad():
            model(torch.stack([transform(image) for image in opened]))

    embed(images[:64])
    started = _Stopwatch()
    for at in range(0, len(images), 64):
        embed(images[at : at + 64])
    return started.rates(len(images))


def _stage(images: dict[str, bytes], encoder: EncoderSettings) -> tuple[float, float]:
    """Embed a few images, so that the encoder is loaded; then measure all others."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        stage = EmbeddingStage(store, "shop", encoder)
        stage.run(fill(store, "shop", dict(islice(images.items(), 32)))[0])
        (shard,) = fill(store, "shop", dict(images))
        started = _Stopwatch()
        return started.rates(stage.run(shard).embedded)


# ---- ONNX Runtime -----------------------------------------------------------------------


class OnnxEncoder:
    """MobileNetV2 in ONNX Runtime, one single-threaded session per core."""

    dim = 1280
    batch_size = 8
    fixed_batch = True
    input_size = 224

    def __init__(self, path: str) -> None:
        onnxruntime: Any = importlib.import_module("onnxruntime")

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """The whole image resized to a square: (224, 224, 3) uint8."""
        return np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))

    def encode(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, 224, 224, 3) uint8 to (n, 1280) float32."""
        mean = np.array([0.485, 0.456, 0.406], np.float32)
        deviation = np.array([0.229, 0.224, 0.225], np.float32)
        pixels = (batch.astype(np.float32) / np.float32(255) - mean) / deviation
        planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        features: NDArray[np.float32] = self._session.run(None, {"images": planes})[0]
        return features

    def replicas(self, cores: int) -> list[OnnxEncoder]:
        """Itself for every core: several threads may run a session."""
        return [self] * cores


def onnx_encoder() -> OnnxEncoder:
    """The encoder's factory."""
    return OnnxEncoder(os.environ[_ONNX_FILE])


def _has_onnx() -> bool:
    return all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx", "onnxscript"))


def _onnx(weights: Path) -> EncoderSettings:
    """Export the model, and return the encoder that runs it."""
    import torch

    from imgsim_assets.encoders.pretrained import load_feature_model

    module, size = load_feature_model(mobilenet(weights, FP32))
    path = Path(tempfile.mkdtemp()) / "mobilenet_v2.onnx"
    example = torch.zeros(OnnxEncoder.batch_size, 3, size, size)
    torch.onnx.export(module.eval(), (example,), str(path), input_names=["images"], verbose=False)
    os.environ[_ONNX_FILE] = str(path)
    return EncoderSettings(factory="benchmarks.embedding:onnx_encoder", version="1")


# ---- quality ----------------------------------------------------------------------------


def _quality(args: argparse.Namespace) -> dict[str, Any]:
    """P@10 of each precision, leaving one out, and the agreement of their vectors."""
    images = dict(members(args.images))
    quality: dict[str, Any] = {}
    vectors = {}
    for precision in (FP32, BF16):
        encoder = mobilenet(args.weights, precision)
        with tempfile.TemporaryDirectory() as folder:
            store = Store.open(folder)
            stage = EmbeddingStage(store, "shop", encoder)
            stage.run(fill(store, "shop", dict(images))[0])
            table = embeddings_table(store, "shop")
            commit = table.latest()
            assert commit is not None
            rows = table.read(commit).filter(pl.col("status") == "ok").sort("id")
            read = VectorTable(store, "shop", stage.fingerprint).read(rows["sha256"])
        at = {sha256: position for position, sha256 in enumerate(read.sha256)}
        vectors[precision] = read.vectors[[at[sha256] for sha256 in rows["sha256"]]]
        labels = np.array([str(Path(item).parent) for item in rows["id"]])
        quality[f"P@10 {precision}"] = round(_precision_at_10(vectors[precision], labels), 4)
    agreement = (vectors["fp32"].astype(np.float64) * vectors["bf16"]).sum(axis=1)
    quality["cosine of fp32 and bf16, median"] = round(float(np.median(agreement)), 5)
    quality["cosine of fp32 and bf16, lowest"] = round(float(agreement.min()), 5)
    return quality


def _precision_at_10(vectors: NDArray[np.float32], labels: NDArray[Any]) -> float:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argpartition(-scores, _NEIGHBORS, axis=1)[:, :_NEIGHBORS]
    return float((labels[nearest] == labels[:, None]).mean())


if __name__ == "__main__":
    main()
