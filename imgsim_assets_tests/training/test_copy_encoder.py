"""The training of the copy encoder on random images: what its losses reward, and resuming."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

from imgsim_assets.encoders.copy_network import DIM, SIDE, CopyNetwork
from imgsim_assets.encoders.settings import COPY_WEIGHTS
from imgsim_assets_tests.support.images import make_image
from training.copy_encoder.edits import edited
from training.copy_encoder.export import export
from training.copy_encoder.images import batch_of_step
from training.copy_encoder.model import start_as_whitening
from training.copy_encoder.train import Training, losses


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [make_image(seed) for seed in range(8)]


def test_an_edited_copy_depends_on_the_seed_alone(images: list[Image.Image]) -> None:
    def copy(seed: int) -> bytes:
        rng = random.Random(seed)
        return edited(images[0], partial(rng.choice, images), rng).tobytes()

    assert [copy(seed) for seed in range(30)] == [copy(seed) for seed in range(30)]
    assert len({copy(seed) for seed in range(30)}) == 30


def test_an_epoch_has_every_image_once(images: list[Image.Image]) -> None:
    batches = [batch_of_step(images, step, 4, seed=0)[0] for step in (0, 1)]

    shown = torch.cat(batches).flatten(1)
    expected = torch.cat([batch_of_step(images, 0, 8, seed=0)[0]]).flatten(1)
    assert torch.equal(shown.sum(1).sort().values, expected.sum(1).sort().values)


def test_copies_at_their_images_and_images_apart_cost_least() -> None:
    apart = torch.eye(4)
    together = torch.ones(4, 4) / 2

    assert all(a < b for a, b in zip(losses(apart, apart), losses(together, together), strict=True))
    assert losses(apart, apart)[0] < losses(apart, apart.roll(1, dims=0))[0]


def test_the_head_starts_as_the_whitening_of_its_sample() -> None:
    network = CopyNetwork()
    sample = torch.randn(600, 1280, generator=torch.Generator().manual_seed(0))

    start_as_whitening(network, sample)

    white = network.head(sample).detach()
    covariance = np.cov(white.numpy().T)
    assert np.abs(covariance - np.eye(DIM)).max() < 0.1


def test_the_network_returns_unit_rows() -> None:
    rows = CopyNetwork().eval()(torch.randn(2, 3, SIDE, SIDE))

    assert rows.shape == (2, DIM)
    assert torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-5)


def test_a_run_that_goes_on_at_a_checkpoint_equals_one_that_was_not_interrupted(
    images: list[Image.Image], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "body.pth")
    batches = [batch_of_step(images, step, 4, seed=0) for step in range(2)]

    def run(after_first: Callable[[Training], Training]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        training = Training(tmp_path / "body.pth", steps=2)
        training.train(*batches[0])
        training = after_first(training)
        training.train(*batches[1])
        return training.average.state_dict()

    def resumed(training: Training) -> Training:
        training.save(tmp_path / "checkpoint.pt")
        other = Training(tmp_path / "body.pth", steps=2)
        other.load(tmp_path / "checkpoint.pt")
        return other

    whole, interrupted = run(lambda training: training), run(resumed)

    assert all(torch.equal(whole[key], interrupted[key]) for key in whole)


def test_exported_weights_are_those_of_the_training_in_half_precision(tmp_path: Path) -> None:
    network = CopyNetwork().eval()
    torch.save(network.state_dict(), tmp_path / "average.pt")

    export(tmp_path / "average.pt", tmp_path / COPY_WEIGHTS)

    other = CopyNetwork().eval()
    stored = load_file(tmp_path / COPY_WEIGHTS)
    other.load_state_dict(
        {name: part.to(network.state_dict()[name]) for name, part in stored.items()}
    )
    batch = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (network(batch) * other(batch)).sum(dim=1).min() > 0.999
    assert (tmp_path / COPY_WEIGHTS).stat().st_size <= 6_000_000
