from __future__ import annotations

import pytest
import timm
import torch
from torch import fx, nn

from imgsim_assets.encoders.norm_folding import fold_batch_norms
from imgsim_assets.encoders.pretrained import feature_model
from imgsim_assets_tests.support.weights import untrained


@pytest.mark.parametrize(
    ("name", "left"),
    [("mobilenet_v3_small", 0), ("resnet18", 0), ("shufflenet_v2_x0_5", 0), ("densenet121", 62)],
)
def test_folded_backbone_is_the_same_function(name: str, left: int) -> None:
    model = _with_trained_statistics(feature_model(untrained(name), name))
    batch = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(batch)

    folded = fold_batch_norms(model)

    with torch.inference_mode():
        actual = folded(batch)
    assert _normalizations(folded) == left
    scale = expected.abs().max()
    torch.testing.assert_close(actual / scale, expected / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "tf_efficientnet_lite0"])
def test_folded_model_of_timm_is_the_same_function(name: str) -> None:
    torch.manual_seed(5)
    model = _with_trained_statistics(timm.create_model(name, pretrained=False, num_classes=0))
    batch = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(batch)

    folded = fold_batch_norms(model)

    assert isinstance(folded, fx.GraphModule)
    called = [folded.get_submodule(n.target) for n in folded.graph.nodes if n.op == "call_module"]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in called)
    with torch.inference_mode():
        torch.testing.assert_close(folded(batch), expected, rtol=1e-4, atol=1e-5)


def test_convolution_with_two_readers_keeps_its_normalization() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.convolution(x)
            return self.norm(y) + y  # type: ignore[no-any-return]

    model = _with_trained_statistics(Twice())
    batch = torch.rand(1, 3, 8, 8)
    expected = model(batch)

    folded = fold_batch_norms(model)

    assert _normalizations(folded) == 1
    torch.testing.assert_close(folded(batch), expected)


def test_convolution_called_twice_keeps_its_normalization() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 3)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convolution(self.norm(self.convolution(x)))  # type: ignore[no-any-return]

    model = _with_trained_statistics(Shared())
    batch = torch.rand(1, 3, 8, 8)
    expected = model(batch)

    torch.testing.assert_close(fold_batch_norms(model)(batch), expected)


def test_untraceable_module_is_returned_unchanged() -> None:
    class Depends(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    model = Depends()

    assert fold_batch_norms(model) is model


def test_layers_without_effect_are_removed() -> None:
    model = _with_trained_statistics(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Identity(), nn.BatchNorm2d(4), nn.Identity()
        )
    )
    batch = torch.rand(1, 3, 8, 8)
    expected = model(batch)

    folded = fold_batch_norms(model)

    assert isinstance(folded, fx.GraphModule)
    assert [node.target for node in folded.graph.nodes if node.op == "call_module"] == ["0"]
    torch.testing.assert_close(folded(batch), expected)


def _with_trained_statistics(model: nn.Module) -> nn.Module:
    """Replace the zeros and ones of a new model by statistics as after training."""
    rng = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=rng) + 0.5)
            for tensor in (module.running_mean, module.bias.data):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=rng) - 0.5)
    return model.eval()


def _normalizations(model: nn.Module) -> int:
    """How many normalizations a forward pass calls."""
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
