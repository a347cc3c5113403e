"""Writes trained weights as the package ships them: safetensors with matrices in half precision.

python -m training.copy_encoder.export /tmp/copy_encoder/average.pt imgsim_copy.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("average", type=Path, help="average.pt of a training")
    parser.add_argument("weights", type=Path, help="the file to write")
    options = parser.parse_args()
    export(options.average, options.weights)


def export(average: Path, weights: Path) -> None:
    """Write a state dict as safetensors.

    Convolutions and layers become float16. The small rest stays as it is: variances near 0 would
    lose their digits.
    """
    state = torch.load(average, map_location="cpu", weights_only=True)
    parts = {name: part.half() if part.dim() > 1 else part for name, part in state.items()}
    save_file({name: part.contiguous() for name, part in parts.items()}, weights)


if __name__ == "__main__":
    main()
