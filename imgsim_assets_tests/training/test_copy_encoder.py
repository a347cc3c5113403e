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

from imgsim_assets.encoders.copy_network import DIM, CopyNetwork
from imgsim_assets.encoders.settings import COPY_WEIGHTS
from imgsim_assets_tests.support.images import make_image
from training.copy_encoder.edits import edited
from training.copy_encoder.export import export
from training.copy_encoder.images import batch_of_step, stretched
from training.copy_encoder.model import start_as_whitening
from training.copy_encoder.order import NeighborOrder, RandomOrder
from training.copy_encoder.train import Training, losses

_SIDE = 96


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [make_image(seed) for seed in range(8)]


def test_an_edited_copy_depends_on_the_seed_alone(images: list[Image.Image]) -> None:
    def copy(seed: int) -> bytes:
        rng = random.Random(seed)
        return edited(images[0], partial(rng.choice, images), rng).tobytes()

    assert [copy(seed) for seed in range(30)] == [copy(seed) for seed in range(30)]
    assert len({copy(seed) for seed in range(30)}) == 30


def test_an_epoch_has_every_image_once() -> None:
    order = RandomOrder(8, 4, seed=0)

    assert sorted([*order(0), *order(1)]) == list(range(8))
    assert sorted([*order(2), *order(3)]) == list(range(8))
    assert [order(step) for step in range(4)] == [order(step) for step in range(4)]


def test_batches_of_neighbors_hold_near_images_together() -> None:
    directions = torch.eye(4).repeat_interleave(3, dim=0)
    tilt = torch.tensor([0.0, 0.4, -0.4]).repeat(4)
    rows = torch.nn.functional.normalize(directions + tilt[:, None] * directions.roll(1, dims=1))

    order = NeighborOrder(rows, 6, 3, seed=0, depth=2)
    batches = [order(step) for step in range(6)]

    assert any(len(batch) == 6 for batch in batches)
    for batch in batches:
        assert sorted(batch) == sorted(
            {number // 3 * 3 + place for number in batch for place in range(3)}
        )


def test_images_that_may_be_one_photograph_are_no_negatives() -> None:
    rows = torch.nn.functional.normalize(torch.ones(8, 4) + torch.eye(8, 4) * 0.01)

    assert len(NeighborOrder(rows, 4, 4, seed=0, depth=3)(0)) == 1


def test_a_batch_depends_on_its_step_and_seed_alone(images: list[Image.Image]) -> None:
    def batch(step: int) -> torch.Tensor:
        return torch.cat(batch_of_step(images, RandomOrder(8, 4, seed=0), step, _SIDE, seed=0))

    assert torch.equal(batch(1), batch(1))
    assert not torch.equal(batch(0), batch(1))


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
    rows = CopyNetwork().eval()(torch.randn(2, 3, _SIDE, _SIDE))

    assert rows.shape == (2, DIM)
    assert torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-5)


def test_a_run_that_goes_on_at_a_checkpoint_equals_one_that_was_not_interrupted(
    images: list[Image.Image], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "body.pth")
    order = RandomOrder(8, 4, seed=0)
    batches = [batch_of_step(images, order, step, _SIDE, seed=0) for step in range(2)]

    def run(after_first: Callable[[Training], Training]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        training = Training(tmp_path / "body.pth", steps=2, spread=0.3)
        training.train(*batches[0])
        training = after_first(training)
        training.train(*batches[1])
        return training.average.state_dict()

    def resumed(training: Training) -> Training:
        training.save(tmp_path / "checkpoint.pt")
        other = Training(tmp_path / "body.pth", steps=2, spread=0.3)
        other.load(tmp_path / "checkpoint.pt")
        return other

    whole, interrupted = run(lambda training: training), run(resumed)

    assert all(torch.equal(whole[key], interrupted[key]) for key in whole)


def test_a_later_run_starts_from_the_weights_of_an_earlier_one(
    images: list[Image.Image], tmp_path: Path
) -> None:
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "body.pth")
    earlier = Training(tmp_path / "body.pth", steps=1, spread=0.3)
    torch.save(earlier.average.state_dict(), tmp_path / "average.pt")
    later = Training(tmp_path / "body.pth", steps=1, spread=5)
    shown = [stretched(image, _SIDE) for image in images]

    later.start(tmp_path / "average.pt")

    assert torch.equal(later.rows(shown), earlier.rows(shown))


def test_exported_weights_are_those_of_the_training_in_half_precision(tmp_path: Path) -> None:
    network = CopyNetwork().eval()
    torch.save(network.state_dict(), tmp_path / "average.pt")

    export(tmp_path / "average.pt", tmp_path / COPY_WEIGHTS)

    other = CopyNetwork().eval()
    stored = load_file(tmp_path / COPY_WEIGHTS)
    other.load_state_dict(
        {name: part.to(network.state_dict()[name]) for name, part in stored.items()}
    )
    batch = torch.randn(4, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (network(batch) * other(batch)).sum(dim=1).min() > 0.999
    assert (tmp_path / COPY_WEIGHTS).stat().st_size <= 6_000_000
