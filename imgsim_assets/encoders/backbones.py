"""The torchvision classification backbones: feature width, weights and input size.

A table, because settings are validated where torchvision must not be imported. A test compares
every line with the installed torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Backbone:
    """A torchvision model without its classifier.

    Attributes:
        dim: width of the features, which the classifier reads.
        weights: names of the published weights, the default first, with their input edge in
            pixels.
    """

    dim: int
    weights: Mapping[str, int]

    @property
    def default_weights(self) -> str:
        """The weights of an encoder that declares none."""
        return next(iter(self.weights))

    def input_size(self, weights: str | None = None) -> int:
        """Edge of the square input in pixels, for published weights or a weights file."""
        return self.weights.get(weights or "", self.weights[self.default_weights])


def _swag(size: int) -> dict[str, int]:
    return {"IMAGENET1K_SWAG_E2E_V1": size, "IMAGENET1K_SWAG_LINEAR_V1": 224}


_V1 = {"IMAGENET1K_V1": 224}
_V2_V1 = {"IMAGENET1K_V2": 224, "IMAGENET1K_V1": 224}

BACKBONES: Mapping[str, Backbone] = {
    name: Backbone(dim, weights)
    for name, dim, weights in (
        ("alexnet", 4096, _V1),
        ("convnext_base", 1024, _V1),
        ("convnext_large", 1536, _V1),
        ("convnext_small", 768, _V1),
        ("convnext_tiny", 768, _V1),
        ("densenet121", 1024, _V1),
        ("densenet161", 2208, _V1),
        ("densenet169", 1664, _V1),
        ("densenet201", 1920, _V1),
        ("efficientnet_b0", 1280, _V1),
        ("efficientnet_b1", 1280, {"IMAGENET1K_V2": 240, "IMAGENET1K_V1": 240}),
        ("efficientnet_b2", 1408, {"IMAGENET1K_V1": 288}),
        ("efficientnet_b3", 1536, {"IMAGENET1K_V1": 300}),
        ("efficientnet_b4", 1792, {"IMAGENET1K_V1": 380}),
        ("efficientnet_b5", 2048, {"IMAGENET1K_V1": 456}),
        ("efficientnet_b6", 2304, {"IMAGENET1K_V1": 528}),
        ("efficientnet_b7", 2560, {"IMAGENET1K_V1": 600}),
        ("efficientnet_v2_l", 1280, {"IMAGENET1K_V1": 480}),
        ("efficientnet_v2_m", 1280, {"IMAGENET1K_V1": 480}),
        ("efficientnet_v2_s", 1280, {"IMAGENET1K_V1": 384}),
        ("googlenet", 1024, _V1),
        ("inception_v3", 2048, {"IMAGENET1K_V1": 299}),
        ("maxvit_t", 512, _V1),
        ("mnasnet0_5", 1280, _V1),
        ("mnasnet0_75", 1280, _V1),
        ("mnasnet1_0", 1280, _V1),
        ("mnasnet1_3", 1280, _V1),
        ("mobilenet_v2", 1280, _V2_V1),
        ("mobilenet_v3_large", 1280, _V2_V1),
        ("mobilenet_v3_small", 1024, _V1),
        ("regnet_x_16gf", 2048, _V2_V1),
        ("regnet_x_1_6gf", 912, _V2_V1),
        ("regnet_x_32gf", 2520, _V2_V1),
        ("regnet_x_3_2gf", 1008, _V2_V1),
        ("regnet_x_400mf", 400, _V2_V1),
        ("regnet_x_800mf", 672, _V2_V1),
        ("regnet_x_8gf", 1920, _V2_V1),
        ("regnet_y_128gf", 7392, _swag(384)),
        ("regnet_y_16gf", 3024, _V2_V1 | _swag(384)),
        ("regnet_y_1_6gf", 888, _V2_V1),
        ("regnet_y_32gf", 3712, _V2_V1 | _swag(384)),
        ("regnet_y_3_2gf", 1512, _V2_V1),
        ("regnet_y_400mf", 440, _V2_V1),
        ("regnet_y_800mf", 784, _V2_V1),
        ("regnet_y_8gf", 2016, _V2_V1),
        ("resnet101", 2048, _V2_V1),
        ("resnet152", 2048, _V2_V1),
        ("resnet18", 512, _V1),
        ("resnet34", 512, _V1),
        ("resnet50", 2048, _V2_V1),
        ("resnext101_32x8d", 2048, _V2_V1),
        ("resnext101_64x4d", 2048, _V1),
        ("resnext50_32x4d", 2048, _V2_V1),
        ("shufflenet_v2_x0_5", 1024, _V1),
        ("shufflenet_v2_x1_0", 1024, _V1),
        ("shufflenet_v2_x1_5", 1024, _V1),
        ("shufflenet_v2_x2_0", 2048, _V1),
        ("squeezenet1_0", 512, _V1),
        ("squeezenet1_1", 512, _V1),
        ("swin_b", 1024, _V1),
        ("swin_s", 768, _V1),
        ("swin_t", 768, _V1),
        ("swin_v2_b", 1024, {"IMAGENET1K_V1": 256}),
        ("swin_v2_s", 768, {"IMAGENET1K_V1": 256}),
        ("swin_v2_t", 768, {"IMAGENET1K_V1": 256}),
        ("vgg11", 4096, _V1),
        ("vgg11_bn", 4096, _V1),
        ("vgg13", 4096, _V1),
        ("vgg13_bn", 4096, _V1),
        ("vgg16", 4096, {"IMAGENET1K_V1": 224, "IMAGENET1K_FEATURES": 224}),
        ("vgg16_bn", 4096, _V1),
        ("vgg19", 4096, _V1),
        ("vgg19_bn", 4096, _V1),
        ("vit_b_16", 768, _V1 | _swag(384)),
        ("vit_b_32", 768, _V1),
        ("vit_h_14", 1280, _swag(518)),
        ("vit_l_16", 1024, _V1 | _swag(512)),
        ("vit_l_32", 1024, _V1),
        ("wide_resnet101_2", 2048, _V2_V1),
        ("wide_resnet50_2", 2048, _V2_V1),
    )
}
