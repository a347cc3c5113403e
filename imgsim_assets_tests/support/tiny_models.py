"""Folders with tiny random models, saved as the real libraries save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def save_timm(folder: Path, architecture: str, *, seed: int = 0, **config: Any) -> Path:
    """A timm model with random weights, its classifier included."""
    import timm

    torch.manual_seed(seed)
    model: Any = timm.create_model(architecture, pretrained=False, **config)
    pretrained = model.pretrained_cfg
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors"
    )
    document = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "model_args": config,
        "pretrained_cfg": {
            key: pretrained[key]
            for key in (
                "input_size",
                "mean",
                "std",
                "interpolation",
                "crop_pct",
                "first_conv",
                "classifier",
            )
        },
    }
    (folder / "config.json").write_text(json.dumps(document))
    return folder


def _save_weights(model: Any, path: Path) -> None:
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)


def save_dinov2(folder: Path, *, seed: int = 0) -> Path:
    """A vision transformer of transformers, for images of 28 pixels."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    _save_processor(folder, {"height": 28, "width": 28})
    return folder


def save_swin(folder: Path) -> Path:
    """A Swin transformer of transformers, for images of 32 pixels."""
    from transformers import SwinConfig, SwinModel

    torch.manual_seed(0)
    config = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    SwinModel(config).save_pretrained(folder)
    _save_processor(folder, {"height": 32, "width": 32})
    return folder


def save_vit_without_pooler(folder: Path) -> Path:
    """A vision transformer whose weights lack the pooler, as many published ones do."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    """A SigLIP model with both towers, and a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SiglipConfig,
        SiglipModel,
        SiglipTextConfig,
        SiglipVisionConfig,
    )

    torch.manual_seed(0)
    sizes: Any = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    text = SiglipTextConfig(**sizes, vocab_size=16, max_position_embeddings=8)
    vision = SiglipVisionConfig(**sizes, image_size=32, patch_size=16)
    config = SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    SiglipModel(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "red", "blue", "shoe", "hat"]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    _save_processor(folder, {"height": 32, "width": 32})
    return folder


def _save_processor(folder: Path, size: dict[str, int]) -> None:
    processor = {"size": size, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def save_open_clip(folder: Path) -> Path:
    """An OpenCLIP model of 32 pixels with its own tokenizer."""
    import open_clip

    torch.manual_seed(0)
    model_config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    document = {"model_cfg": model_config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    model: Any = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


def save_onnx(path: Path, *, side: int = 24, dim: int = 8) -> Path:
    """A convolution, its activation and a mean, for batches of any size."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, dim, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    ).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        module,
        (torch.zeros(2, 3, side, side),),
        path,
        input_names=["pixels"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        dynamo=True,
        verbose=False,
    )
    return path


def save_torchscript(path: Path, *, side: int = 32, dim: int = 8) -> Path:
    """A traced module, as SSCD's weights are published."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, dim, 3, stride=2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.trace(module, torch.zeros(1, 3, side, side)).save(str(path))  # type: ignore[no-untyped-call]
    return path
