"""The encoder that vectors were made with, to be used again, perhaps on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from imgsim_assets.encoders.encoder import Encoder, fingerprint
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import EncoderError, SettingsError, StoreError
from imgsim_assets.storage.commit import Commit

# In the properties of a commit of embeddings, and of what was made from them.
ENCODER = "encoder"


def as_recorded(settings: EncoderSettings) -> dict[str, Any]:
    """What is recorded of an encoder: all but the devices that it ran on."""
    return settings.model_dump(mode="json", exclude={"device", "num_gpus"})


def recorded_in(commit: Commit) -> EncoderSettings:
    """The encoder of the vectors behind a commit, as the run that made them recorded it.

    Devices are not recorded, and a weights file may lie elsewhere by now.
    """
    return EncoderSettings.model_validate(commit.properties[ENCODER])


def elsewhere(
    recorded: EncoderSettings, device: str | None = None, weights: str | None = None
) -> EncoderSettings:
    """The same encoder on a device, or with its weights file at a path, that are asked for.

    Raises SettingsError for a device or weights that there cannot be.
    """
    asked = {"device": device, "weights": weights}
    given = {key: value for key, value in asked.items() if value is not None}
    known = recorded.model_dump(mode="json", exclude_unset=True)
    try:
        # Another run may record it again, and look for it from elsewhere.
        return EncoderSettings.model_validate({**known, **given}).located(Path.cwd())
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise SettingsError(message) from error


def require_same_encoder(
    settings: EncoderSettings, made_by: str, vectors: str, encoder: Encoder | None = None
) -> None:
    """Raise unless settings mean the encoder with the fingerprint `made_by`.

    `vectors` names in messages what was made by that. Raises EncoderError when the weights file
    is not there, and StoreError for another encoder. See `fingerprint` about `encoder`.
    """
    path = settings.weights_file
    if path is not None and not Path(path).is_file():
        raise EncoderError(
            f"weights: {path}, with which {vectors} were made, is not on this machine; say where "
            "the file lies: --weights FILE, or weights=FILE in Python"
        )
    if fingerprint(settings, encoder) != made_by:
        raise StoreError(
            f"{vectors} were not made by the encoder {settings.describe()} as it is here: its "
            "name, weights, version or precision differ; give the encoder and weights that they "
            "were made with (--weights FILE, or weights=FILE in Python), or compute them anew"
        )
