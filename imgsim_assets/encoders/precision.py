"""The number format of a catalog's vectors, fp32 or bf16, decided by its first run.

The bf16 and fp32 vectors of a network differ too much to be compared (a cosine of 0.992 was
measured), so that the format is part of the fingerprint. `precision: auto` continues in the
format of existing vectors, so that two machines never fill one catalog in two formats.
"""

from __future__ import annotations

from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.settings import AUTO, BF16, FP32, FP32_ENCODERS, EncoderSettings
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store


def resolve_precision(
    store: Store, name: str, settings: EncoderSettings, embeddings: Commit | None
) -> EncoderSettings:
    """The settings with `precision: auto` replaced by fp32 or bf16.

    The first of these decides: the catalog's embeddings, its vectors, the vectors of other
    catalogs of the store, and which format is faster on this machine.

    Args:
        store: holds the catalog.
        name: name of the catalog.
        settings: the encoder as declared.
        embeddings: the newest commit of the catalog's embeddings, if any.
    """
    if settings.precision != AUTO:
        return settings
    if settings.factory is not None or settings.library in FP32_ENCODERS:
        return _with_precision(settings, FP32)
    candidates = {
        fingerprint(candidate): candidate
        for candidate in (_with_precision(settings, FP32), _with_precision(settings, BF16))
    }
    if embeddings is not None and embeddings.properties[FINGERPRINT] in candidates:
        return candidates[embeddings.properties[FINGERPRINT]]
    # Where a catalog has vectors in both formats, the order of names decides, on every machine.
    for table in sorted(
        store.table_names(), key=lambda table: (table.split("/")[0] != name, table)
    ):
        _, _, encoder_fingerprint = table.partition("/vectors/")
        if encoder_fingerprint in candidates:
            return candidates[encoder_fingerprint]
    has_bf16 = _has_fast_bf16(settings.device, settings.num_gpus)
    return _with_precision(settings, BF16 if has_bf16 else FP32)


def _with_precision(settings: EncoderSettings, precision: str) -> EncoderSettings:
    return settings.model_copy(update={"precision": precision})


def _has_fast_bf16(device: str, num_gpus: int) -> bool:
    """Whether the device has bfloat16 in hardware; imports torch only where there is a GPU."""
    if device != "cpu" and num_gpus != 0 and hardware.may_have_gpu():
        import torch

        if torch.cuda.is_available():
            return bool(torch.cuda.is_bf16_supported())
    return hardware.has_bf16()
