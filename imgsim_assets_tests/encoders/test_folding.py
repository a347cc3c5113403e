from __future__ import annotations

import pytest
import torch
from torch import nn

from imgsim_assets.encoders.folding import fold_batch_norms
from imgsim_assets.encoders.pretrained import feature_model
from imgsim_assets_tests.support.weights import untrained


@pytest.mark.parametrize(
    ("name", "left"),
    [("mobilenet_v3_small", 0), ("resnet18", 0), ("shufflenet_v2_x0_5", 0), ("densenet121", 62)],
)
def test_a_backbone_without_its_normalizations_is_the_same_function(name: str, left: int) -> None:
    model = _unsettled(feature_model(untrained(name), name))
    batch = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(batch)

    folded = fold_batch_norms(model)

    with torch.inference_mode():
        found = folded(batch)
    assert _normalizations(folded) == left
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-4, atol=1e-5)


def test_a_convolution_that_is_read_twice_keeps_its_normalization() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.convolution(x)
            return self.norm(y) + y  # type: ignore[no-any-return]

    model = _unsettled(Twice())
    batch = torch.rand(1, 3, 8, 8)
    expected = model(batch)

    folded = fold_batch_norms(model)

    assert _normalizations(folded) == 1
    torch.testing.assert_close(folded(batch), expected)


def test_a_convolution_that_is_used_twice_keeps_its_normalization() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 3)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convolution(self.norm(self.convolution(x)))  # type: ignore[no-any-return]

    model = _unsettled(Shared())
    batch = torch.rand(1, 3, 8, 8)
    expected = model(batch)

    torch.testing.assert_close(fold_batch_norms(model)(batch), expected)


def test_a_module_that_cannot_be_traced_comes_back_as_it_was() -> None:
    class Depends(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    model = Depends()

    assert fold_batch_norms(model) is model


def _unsettled(model: nn.Module) -> nn.Module:
    """With statistics as training leaves them, not the zeros and ones of a new model."""
    chance = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=chance) + 0.5)
            for tensor in (module.running_mean, module.bias.data):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=chance) - 0.5)
    return model.eval()


def _normalizations(model: nn.Module) -> int:
    """How many a forward pass still calls."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_: called.append("norm"))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.inference_mode():
        model(torch.rand(1, 3, 96, 96))
    for hook in hooks:
        hook.remove()
    return len(called)
