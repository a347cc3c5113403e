"""The encoder that made some vectors, as recorded in a commit, and checks against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from imgsim_assets.encoders.encoder import Encoder, fingerprint, load_encoder, needs_loading
from imgsim_assets.encoders.settings import AUTO, EncoderSettings
from imgsim_assets.errors import CorruptFileError, EncoderError, SettingsError, StoreError
from imgsim_assets.storage.commit import Commit

# Properties of a commit of embeddings, and of everything computed from them.
ENCODER = "encoder"
FINGERPRINT = "fingerprint"


def to_metadata(settings: EncoderSettings) -> dict[str, Any]:
    """The settings to record with vectors: all but the devices that computed them."""
    return settings.model_dump(mode="json", exclude={"device", "num_gpus"})


def encoder_from_commit(commit: Commit) -> EncoderSettings:
    """The encoder of the vectors behind a commit, as the run that made them recorded it.

    Devices are not recorded, and a weights file may have moved since.

    Raises:
        CorruptFileError: when the commit records no valid encoder.
    """
    return parse_recorded(commit.properties.get(ENCODER), f"{commit.table} {commit.version}")


def recorded_name(commit: Commit) -> str:
    """The encoder of the vectors behind a commit, in words.

    It is "unknown" where another version of the package recorded it: words decide nothing, the
    fingerprint does.
    """
    try:
        return encoder_from_commit(commit).describe()
    except CorruptFileError:
        return "unknown"


def parse_recorded(document: Any, location: str) -> EncoderSettings:
    """The settings of a recorded encoder; `location` names in messages where they are.

    Raises:
        CorruptFileError: when they are not valid.
    """
    try:
        return EncoderSettings.model_validate(document)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise CorruptFileError(f"{location} records no valid encoder: {message}") from error


def require_named_factory(settings: EncoderSettings, factory: str | None, vectors: str) -> None:
    """Raise unless the caller named the recorded factory, whose code is about to run.

    Whoever writes a store or a saved model chooses the factory that it records.

    Args:
        settings: the recorded encoder.
        factory: the factory that the caller's own settings name.
        vectors: as in `require_encoder`.

    Raises:
        SettingsError: when the encoder has another factory.
    """
    if settings.factory is not None and settings.factory != factory:
        raise SettingsError(
            f"factory: {vectors} were made by {settings.factory}, and the code that a store or a "
            f"model names does not run by itself; if you trust it, give --factory "
            f"{settings.factory}, or factory={settings.factory!r} in Python"
        )


def require_named_program(settings: EncoderSettings, weights: str | None, vectors: str) -> None:
    """Raise unless the caller named a recorded weights file that is a program.

    TorchScript and ONNX files are run, and a store or a saved model may name any file.

    Args:
        settings: the recorded encoder.
        weights: the weights file that the caller's own settings name.
        vectors: as in `require_encoder`.

    Raises:
        SettingsError: when the encoder runs another file.
    """
    if settings.runs_code_of_a_file and weights is None:
        raise SettingsError(
            f"weights: {vectors} were made by {settings.weights}, and a program that a store or a "
            f"model names does not run by itself; if you trust it, give --weights "
            f"{settings.weights}, or weights={settings.weights!r} in Python"
        )


def with_overrides(
    recorded: EncoderSettings, device: str | None = None, weights: str | None = None
) -> EncoderSettings:
    """A recorded encoder on another device, or with its weights file at another path.

    Raises:
        SettingsError: when the encoder cannot have such a device or weights.
    """
    options = {"device": device, "weights": weights}
    given = {key: value for key, value in options.items() if value is not None}
    settings = recorded.model_dump(mode="json", exclude_unset=True)
    try:
        # Another run may record the path again and resolve it from another folder.
        return EncoderSettings.model_validate({**settings, **given}).with_absolute_weights(
            Path.cwd()
        )
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise SettingsError(message) from error


def require_encoder(
    settings: EncoderSettings,
    encoder_fingerprint: str,
    vectors: str,
    encoder: Encoder | None = None,
) -> None:
    """Raise unless settings mean, on this machine, the encoder with a fingerprint.

    Args:
        settings: the encoder as it would be used here.
        encoder_fingerprint: of the encoder that made the vectors.
        vectors: names the vectors in messages, such as "the vectors of products".
        encoder: the encoder if it is loaded already; see `encoder.fingerprint`.

    Raises:
        EncoderError: when the weights file does not exist.
        StoreError: when the settings mean another encoder.
    """
    path = settings.weights_file
    if path is not None and not Path(path).is_file():
        raise EncoderError(
            f"weights: {path}, with which {vectors} were made, is not on this machine; give the "
            "path of the file: --weights FILE, or weights=FILE in Python"
        )
    if fingerprint(settings, encoder) != encoder_fingerprint:
        raise StoreError(
            f"{vectors} were not made by the encoder {settings.describe()} as it is here: its "
            "name, weights, version or precision differ; give the encoder and weights that made "
            "them (--weights FILE, or weights=FILE in Python), or recompute them"
        )


def load_recorded(
    settings: EncoderSettings, encoder_fingerprint: str, vectors: str, *, factory: str | None
) -> Encoder:
    """Load the encoder that made some vectors.

    Args:
        settings: as in `require_encoder`, like the following two.
        encoder_fingerprint: of the encoder that made the vectors.
        vectors: names the vectors in messages.
        factory: as in `require_named_factory`.

    Raises:
        EncoderError: when the encoder or its weights file cannot be loaded.
        SettingsError: when the encoder has a factory that the caller has not named.
        StoreError: when the settings mean another encoder.
    """
    require_named_factory(settings, factory, vectors)
    # Checked before loading wherever possible, so that a wrong network is not loaded first.
    encoder = load_encoder(settings) if needs_loading(settings) else None
    require_encoder(settings, encoder_fingerprint, vectors, encoder)
    return encoder or load_encoder(settings)


def load_encoder_of(
    commit: Commit, name: str, declared: EncoderSettings | None
) -> tuple[EncoderSettings, Encoder]:
    """The encoder of a catalog's vectors, loaded, and its settings.

    Args:
        commit: of the catalog's embeddings or its index.
        name: name of the catalog.
        declared: the encoder as declared, its weights file located: it says where to compute.
            By default the recorded one, which must neither be a factory's nor run the code of a
            file.

    Raises:
        EncoderError: when the encoder or its weights file cannot be loaded.
        SettingsError: when the encoder would run code that was not declared.
        StoreError: when the settings mean another encoder.
    """
    recorded = encoder_from_commit(commit)
    vectors = f"the vectors of {name}"
    settings = declared or recorded
    if settings.precision == AUTO:
        settings = settings.model_copy(update={"precision": recorded.precision})
    if declared is None:
        require_named_program(settings, None, vectors)
    factory = declared.factory if declared is not None else None
    encoder = load_recorded(settings, commit.properties[FINGERPRINT], vectors, factory=factory)
    return settings, encoder


def require_same_encoder(commits: Sequence[tuple[str, Commit]]) -> None:
    """Raise StoreError unless one encoder made the vectors of all the catalogs.

    Args:
        commits: names of the catalogs with the commits of their embeddings or indexes.
    """
    if len({commit.properties[FINGERPRINT] for _, commit in commits}) > 1:
        encoders = " and ".join(f"{name} by {recorded_name(commit)}" for name, commit in commits)
        which = "both" if len(commits) == 2 else "all"
        raise StoreError(
            f"the vectors cannot be compared: {encoders}; give {which} catalogs the same encoder "
            "and weights, and materialize their embeddings and indexes"
        )
