"""Trains the copy encoder: contrastive on strongly edited copies.

After SSCD (Pizzi et al. 2022, "A Self-Supervised Descriptor for Image Copy Detection"): InfoNCE
over the batch plus a term that spreads the descriptors, GeM pooling and whitening. The weights that
count are a moving average over the steps. An interrupted run goes on at its last checkpoint.

    python -m training.copy_encoder.train --images caltech101.tar clothing.tar groceries.tar \
        --weights mobilenet_v2.pth --work /tmp/copy_encoder --side 144

`README.md` beside this file has the runs that made the weights of the package.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from imgsim_assets.encoders.copy_network import CopyNetwork
from training.copy_encoder.images import batch_of_step, read_images, stretched, to_input
from training.copy_encoder.model import load_published, start_as_whitening
from training.copy_encoder.order import NeighborOrder, RandomOrder

TEMPERATURE = 0.05
BODY_RATE, HEAD_RATE = 1e-4, 5e-4
WARM_UP_STEPS = 50
AVERAGE_DECAY = 0.995
_WHITENING_SAMPLE = 1024
_CHECKPOINT_STEPS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="tars of images")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2's state dict")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--all", action="store_true", help="also the images kept for reporting")
    parser.add_argument("--start", type=Path, help="weights of an earlier run, else published ones")
    parser.add_argument("--group", type=int, default=1, help="nearest images in a batch together")
    parser.add_argument("--side", type=int, default=176, help="of the input, in pixels")
    parser.add_argument("--spread", type=float, default=0.3, help="weight of the spreading term")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    images = read_images(options.images, None if options.all else "tuning")
    print(f"{len(images)} images", flush=True)
    torch.manual_seed(options.seed)
    training = Training(options.weights, options.steps, options.spread)
    if options.start:
        training.start(options.start)
    else:
        sample = random.Random(options.seed).sample(images, _WHITENING_SAMPLE)
        training.whiten([stretched(image, options.side) for image in sample])
    order = _order(training, images, options)
    checkpoint = options.work / "checkpoint.pt"
    if checkpoint.exists():
        training.load(checkpoint)
    with ThreadPoolExecutor(1) as loader:

        def load(step: int) -> Any:
            return loader.submit(batch_of_step, images, order, step, options.side, options.seed)

        following = load(training.step)
        while training.step < options.steps:
            started = time.monotonic()
            batch, following = following.result(), load(training.step + 1)
            losses = training.train(*batch)
            if training.step % 10 == 0:
                seconds = time.monotonic() - started
                print(f"step {training.step}: {losses} {seconds:.1f} s", flush=True)
            if training.step % _CHECKPOINT_STEPS == 0 or training.step == options.steps:
                training.save(checkpoint)
                torch.save(training.average.state_dict(), options.work / "average.pt")


def _order(training: Training, images: list[Any], options: argparse.Namespace) -> Any:
    if options.group == 1:
        return RandomOrder(len(images), options.batch, options.seed)
    rows = training.rows([stretched(image, options.side) for image in images])
    return NeighborOrder(rows, options.batch, options.group, options.seed)


class Training:
    """The network, its optimizer and the moving average of its weights."""

    def __init__(self, weights: Path, steps: int, spread: float) -> None:
        self.network = CopyNetwork().to(memory_format=torch.channels_last)
        load_published(self.network, weights)
        self.average = copy.deepcopy(self.network).eval()
        self.step = 0
        self._steps = steps
        self._spread = spread
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [*self.network.features.parameters()], "rate": BODY_RATE},
                {
                    "params": [*self.network.head.parameters(), *self.network.pool.parameters()],
                    "rate": HEAD_RATE,
                },
            ],
            weight_decay=0.01,
        )

    def start(self, weights: Path) -> None:
        """Start from the weights of an earlier run."""
        state = torch.load(weights, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state)
        self.average.load_state_dict(state)

    @torch.inference_mode()
    def rows(self, images: list[Any]) -> torch.Tensor:
        """Unit rows (n, d) of stretched images."""
        self.average.eval()
        return torch.cat(
            [self.average(to_input(images[at : at + 64])) for at in range(0, len(images), 64)]
        )

    def whiten(self, sample: list[Any]) -> None:
        """Start the head as the whitening of the pooled features of a sample."""
        self.network.eval()
        with torch.no_grad():
            rows = [
                self.network.pooled(to_input(sample[at : at + 64]))
                for at in range(0, len(sample), 64)
            ]
        start_as_whitening(self.network, torch.cat(rows))
        self.average.load_state_dict(self.network.state_dict())

    def train(self, plain: torch.Tensor, copies: torch.Tensor) -> str:
        """One step; returns its losses as text."""
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # keeps the published statistics
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * self._schedule()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rows = self.network(torch.cat([plain, copies]))
        contrast, spread = losses(*rows.float().chunk(2))
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(contrast + self._spread * spread)
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self._optimizer.step()
        self.step += 1
        self._update_average()
        return f"contrast {contrast.item():.3f} spread {spread.item():.3f}"

    def _schedule(self) -> float:
        """Warm-up, then cosine decay to 0."""
        if self.step < WARM_UP_STEPS:
            return (self.step + 1) / WARM_UP_STEPS
        progress = (self.step - WARM_UP_STEPS) / max(1, self._steps - WARM_UP_STEPS)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(AVERAGE_DECAY, self.step / (self.step + 10))
        for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def save(self, path: Path) -> None:
        """Write everything that a later run needs to go on."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a file of `save`."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def losses(plain: torch.Tensor, copies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """InfoNCE of the copies, and the term that spreads the rows.

    Args:
        plain: unit rows (n, d) of the images.
        copies: unit rows (n, d) of their edited copies.

    Returns:
        The mean cross-entropy of each copy finding its image among all images and all other
        copies, and the mean of -log of each row's distance to the nearest of another image
        (the entropy estimator of Kozachenko and Leonenko).
    """
    count = len(plain)
    everything = torch.cat([plain, copies])
    cosines = copies @ everything.T
    own_copy = torch.arange(count) + count
    logits = cosines / TEMPERATURE
    logits[torch.arange(count), own_copy] = -torch.inf
    contrast = functional.cross_entropy(logits, torch.arange(count))
    among_all = everything @ everything.T
    image = torch.arange(2 * count) % count
    same = image[:, None] == image[None, :]
    nearest = among_all.masked_fill(same, -1).max(dim=1).values
    distance = (2 - 2 * nearest).clamp(min=1e-6).sqrt()
    return contrast, -distance.log().mean()


if __name__ == "__main__":
    main()
