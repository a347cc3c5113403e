"""Forward passes of a timm model beside onnxruntime's: images per second of one core, alternating.

The weights are random: speed does not depend on them.

    python -m benchmarks.encoder_speed vit_small_patch16_224 mobilenetv3_large_100
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import onnxruntime
import timm
import torch
from torch import nn

from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.fitted_module import fit_module
from imgsim_assets.encoders.torch_encoder import CPU_BATCH

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", help="of timm's models")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # As encoders do; onnxruntime has an allocator of its own.
    hardware.enable_huge_pages()
    hardware.keep_freed_memory()
    for name in options.names:
        rates = measure(name, options.rounds)
        others = ", ".join(
            f"{kind} {rate:.1f} ({rate / rates['onnxruntime']:.2f}x)"
            for kind, rate in rates.items()
            if kind != "onnxruntime"
        )
        print(f"{name}: onnxruntime {rates['onnxruntime']:.1f} images/s, {others}", flush=True)


def measure(name: str, rounds: int) -> dict[str, float]:
    """Images per second of processor time of each runtime, the median over the rounds."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0).eval()
    side = timm.data.resolve_model_data_config(model)["input_size"][-1]  # type: ignore[attr-defined,no-untyped-call]
    batch = torch.rand(CPU_BATCH, 3, side, side)
    session = _session(model, batch)
    passes: dict[str, Callable[[], Any]] = {
        "onnxruntime": lambda: session.run(None, {"pixels": batch.numpy()}),
        "unfitted fp32": _forward(model, batch, torch.float32),
    }
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        fitted = fit_module(copy.deepcopy(model), CPU, dtype).module
        passes[kind] = _forward(fitted, batch, dtype)
    seconds: dict[str, list[float]] = {kind: [] for kind in passes}
    for _ in range(rounds):
        for kind, forward in passes.items():
            forward()
            started = time.process_time()
            forward()
            forward()
            seconds[kind].append((time.process_time() - started) / 2)
    return {kind: CPU_BATCH / statistics.median(each) for kind, each in seconds.items()}


def _forward(module: nn.Module, batch: torch.Tensor, dtype: torch.dtype) -> Callable[[], Any]:
    module = module.to(dtype).to(memory_format=torch.channels_last)
    pixels = batch.to(dtype).contiguous(memory_format=torch.channels_last)

    def forward() -> Any:
        with torch.inference_mode():
            return module(pixels)

    return forward


def _session(model: nn.Module, batch: torch.Tensor) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = f"{folder}/model.onnx"
        torch.onnx.export(model, (batch,), path, dynamo=False, input_names=["pixels"])
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
