"""The embeddings stage beside the rate that decoding and forward passes alone allow.

    python -m benchmarks.embedding_bound --images caltech101.tar --weights mobilenet_v2_imagenet.pth

One process, and in every round in turn, with one thread for each core:

    decode     decoding and resizing
    forward    forward passes on prepared images, in batches of the encoder's size
    stage      the embeddings stage, from stored bytes to the commit; the encoder is loaded before

The bound is the rate of a machine whose cores do nothing but decode and forward: cores / (core
seconds of both per image). Ratios are given by core seconds, which other work on the machine
disturbs little, and by elapsed time, which also counts cores that wait.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.embedding import members, mobilenet
from imgsim_assets.encoders.encoder import load_encoder, min_decode_size
from imgsim_assets.encoders.hardware import has_bf16, usable_cores
from imgsim_assets.encoders.settings import BF16, FP32, IMGSIM_COPY, EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.images.decode import decode
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import fill

_WARM_UP_IMAGES = 64


@dataclass(frozen=True)
class Cost:
    """Milliseconds per image: of a core, and elapsed."""

    core: float
    elapsed: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="tar of CLASS/NAME.jpg")
    parser.add_argument(
        "--weights", type=Path, help="mobilenet_v2 state dict; default: imgsim_copy"
    )
    parser.add_argument("--precision", choices=(FP32, BF16), default=BF16 if has_bf16() else FP32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1500, help="images per round")
    args = parser.parse_args()
    settings = (
        mobilenet(args.weights, args.precision)
        if args.weights
        else EncoderSettings(name=IMGSIM_COPY, device="cpu")
    )
    images = dict(islice(members(args.images), args.count))
    report(measure(images, settings, args.rounds))


def measure(
    images: Mapping[str, bytes], settings: EncoderSettings, rounds: int
) -> list[dict[str, Cost]]:
    """The cost of each part, round by round."""
    encoder: Any = load_encoder(settings)
    min_size = min_decode_size(encoder)

    def prepare(data: bytes) -> Any:
        return encoder.prepare(decode(data, min_size=min_size))

    prepared = [prepare(data) for data in images.values()]
    size = encoder.batch_size
    batches = [np.stack(prepared[at : at + size]) for at in range(0, len(prepared), size)]
    measured = []
    with ThreadPoolExecutor(usable_cores(), initializer=encoder.use_one_thread) as pool:
        list(pool.map(encoder.encode, batches[: 2 * usable_cores()]))
        for _ in range(rounds):
            measured.append(
                {
                    "decode": _cost(lambda: list(pool.map(prepare, images.values())), len(images)),
                    "forward": _cost(lambda: list(pool.map(encoder.encode, batches)), len(images)),
                    "stage": _stage(images, settings),
                }
            )
            print(_describe(measured[-1]), flush=True)
    return measured


def _stage(images: Mapping[str, bytes], settings: EncoderSettings) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        stage = EmbeddingStage(store, "shop", settings)
        stage.run(fill(store, "shop", dict(islice(images.items(), _WARM_UP_IMAGES)))[0])
        (shard,) = fill(store, "shop", images)
        return _cost(lambda: stage.run(shard), len(images) - _WARM_UP_IMAGES)


def _cost(work: Callable[[], Any], images: int) -> Cost:
    elapsed, cores = time.perf_counter(), time.process_time()
    work()
    per_image = 1000 / images
    return Cost(
        (time.process_time() - cores) * per_image, (time.perf_counter() - elapsed) * per_image
    )


def report(measured: Sequence[Mapping[str, Cost]]) -> None:
    """Print the median of each part and of the ratios, which are taken within a round."""
    print("| part | core ms per image | images per second |\n| --- | --- | --- |")
    for part in measured[0]:
        core = statistics.median(costs[part].core for costs in measured)
        elapsed = statistics.median(costs[part].elapsed for costs in measured)
        print(f"| {part} | {core:.2f} | {1000 / elapsed:.0f} |")
    for kind in ("core", "elapsed"):
        ratios = [_ratio(costs, kind) for costs in measured]
        print(
            f"stage / bound by {kind} time: {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


def _ratio(costs: Mapping[str, Cost], kind: str) -> float:
    decode, forward, stage = (getattr(costs[part], kind) for part in costs)
    ratio: float = (decode + forward) / stage
    return ratio


def _describe(costs: Mapping[str, Cost]) -> str:
    parts = ", ".join(
        f"{part} {cost.core:.2f} core ms {cost.elapsed:.2f} ms" for part, cost in costs.items()
    )
    return f"{parts}: {_ratio(costs, 'core'):.3f} by core, {_ratio(costs, 'elapsed'):.3f} elapsed"


if __name__ == "__main__":
    main()
