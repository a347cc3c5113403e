"""Which number format a catalog's vectors are computed in, settled by its first run.

In bfloat16 the vectors of a network differ from those in float32 by more than can be
overlooked (a cosine of 0.992 was seen), so the format is part of the fingerprint. `auto`
takes what the vectors that are there were made with, so that two machines never fill one
catalog in two formats.
"""

from __future__ import annotations

from pathlib import Path

from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.settings import AUTO, BF16, FP32, HOG_COLOR, EncoderSettings
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store

# Where the drivers of NVIDIA's cards are found, natively and under Windows.
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")


def resolve_precision(
    store: Store, name: str, settings: EncoderSettings, embeddings: Commit | None
) -> EncoderSettings:
    """The settings with `precision: auto` replaced by fp32 or bf16.

    In this order: what the catalog's embeddings say, what vectors the catalog has, what
    vectors any other catalog of the store has, and what this machine is best at.
    """
    if settings.precision != AUTO:
        return settings
    if settings.factory is not None or settings.name == HOG_COLOR:
        return _in(settings, FP32)
    choices = {fingerprint(chosen): chosen for chosen in (_in(settings, FP32), _in(settings, BF16))}
    if embeddings is not None and embeddings.properties["fingerprint"] in choices:
        return choices[embeddings.properties["fingerprint"]]
    # With a catalog of two formats the order of names decides, the same on every machine.
    for table in sorted(
        store.table_names(), key=lambda table: (table.split("/")[0] != name, table)
    ):
        _, _, encoder_fingerprint = table.partition("/vectors/")
        if encoder_fingerprint in choices:
            return choices[encoder_fingerprint]
    return _in(settings, BF16 if _computes_bf16(settings.device, settings.num_gpus) else FP32)


def _in(settings: EncoderSettings, precision: str) -> EncoderSettings:
    return settings.model_copy(update={"precision": precision})


def _computes_bf16(device: str, num_gpus: int) -> bool:
    """Whether the device has fast bfloat16; imports torch only where there is a GPU."""
    may_be_gpu = device != "cpu" and num_gpus != 0
    if may_be_gpu and any(Path(driver).exists() for driver in _DRIVERS):
        import torch

        if torch.cuda.is_available():
            return bool(torch.cuda.is_bf16_supported())
    return hardware.has_bf16()
