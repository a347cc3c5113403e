"""`imgsim_copy` with other weights than those of the package, as a factory of an encoder."""

from __future__ import annotations

from pathlib import Path

from imgsim_assets.encoders.imgsim_copy import load_imgsim_copy
from imgsim_assets.encoders.library_encoder import LibraryEncoder
from imgsim_assets.encoders.settings import IMGSIM_COPY, EncoderSettings


def make(weights: str) -> LibraryEncoder:
    """The encoder with weights of `training.copy_encoder.export`."""
    return LibraryEncoder(load_imgsim_copy(Path(weights)), EncoderSettings(name=IMGSIM_COPY))
