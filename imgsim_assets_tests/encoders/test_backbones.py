from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import regnet

from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.pretrained import feature_model

PUBLISHED = torchvision.models.list_models(module=torchvision.models)


def test_backbones_are_the_classification_models_of_torchvision() -> None:
    assert sorted(BACKBONES) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_match_torchvision_in_size_and_default(name: str) -> None:
    published = torchvision.models.get_model_weights(name)

    sizes = {weights.name: weights.transforms().crop_size for weights in published}
    assert {weights: [size] for weights, size in BACKBONES[name].weights.items()} == sizes
    assert BACKBONES[name].default_weights == published.DEFAULT.name
    for weights, size in sizes.items():
        assert [BACKBONES[name].input_size(weights)] == size


@pytest.mark.parametrize("name", PUBLISHED)
def test_model_without_classifier_has_declared_dim(name: str, without_memory: None) -> None:
    backbone = BACKBONES[name]
    for size in sorted(set(backbone.weights.values())):
        model = feature_model(_built_as_published(name, size), name).eval()

        features = model(torch.zeros(2, 3, size, size, device="meta"))

        assert features.flatten(1).shape == (2, backbone.dim)


def test_weights_file_uses_input_size_of_default_weights() -> None:
    assert BACKBONES["inception_v3"].input_size("/models/own.pth") == 299
    assert BACKBONES["inception_v3"].input_size(None) == 299


@pytest.fixture
def without_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Build models on the meta device: shapes without values."""
    compute = regnet.BlockParams.from_init_params

    def on_cpu(*args: Any, **options: Any) -> Any:
        # RegNet computes the widths of its stages with tensors.
        with torch.device("cpu"):
            return compute(*args, **options)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", on_cpu)
    with torch.device("meta"), torch.inference_mode():
        yield


def _built_as_published(name: str, size: int) -> nn.Module:
    """The model as torchvision builds it for weights of an input size."""
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if "vit" in name.split("_"):
        options["image_size"] = size
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model
