"""The folder with the files of a model: of the Hugging Face Hub's cache, or a local one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from imgsim_assets.encoders.settings import (
    HUB,
    IMGSIM_COPY,
    LOCAL_DIR,
    OPEN_CLIP,
    TIMM,
    TRANSFORMERS,
    EncoderSettings,
)
from imgsim_assets.errors import EncoderError

EXTRAS = {TIMM: "timm", OPEN_CLIP: "clip", TRANSFORMERS: "transformers"}
_OPEN_CLIP_CONFIG = "open_clip_config.json"
_CONFIG = "config.json"
# Configuration, safetensors and tokenizers; no pickles and no Python files.
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]


def hub_repository(settings: EncoderSettings) -> str | None:
    """The Hub's repository OWNER/NAME of a model; None for encoders that have none."""
    if settings.library == TIMM:
        return settings.name
    if settings.library == TRANSFORMERS:
        return settings.name.removeprefix(f"{TRANSFORMERS}/")
    if settings.library == HUB:
        return settings.name.removeprefix(f"{HUB}:")
    return None


def find_snapshot(settings: EncoderSettings) -> Path | None:
    """The folder of a model whose files are on this machine; makes no request.

    Args:
        settings: an encoder of timm, transformers, the Hub or a local folder.

    Returns:
        None where the Hub's cache (HF_HOME) does not have the model.

    Raises:
        EncoderError: when a local folder does not exist.
    """
    if settings.library == LOCAL_DIR:
        folder = Path(str(settings.model_dir))
        if not folder.is_dir():
            raise EncoderError(
                f"name: there is no folder {str(folder)!r}; give the folder with the model's "
                "config and safetensors file"
            )
        return folder
    return _snapshot(settings, is_local_only=True)


def require_snapshot(settings: EncoderSettings) -> Path:
    """The folder of a model, downloaded to the Hub's cache if it is not there.

    Raises:
        EncoderError: when the model cannot be had; says what to do.
    """
    folder = find_snapshot(settings) or _snapshot(settings, is_local_only=False)
    if folder is None or not any(folder.glob("*.safetensors")):
        raise EncoderError(
            f"name: {settings.name} has no safetensors file; only safetensors are loaded, since "
            "other files may run code"
        )
    return folder


def download_snapshot(settings: EncoderSettings) -> Path:
    """Download a model to the Hub's cache, or update what the cache has.

    Raises:
        EncoderError: as for `require_snapshot`.
    """
    if settings.library == LOCAL_DIR:
        return require_snapshot(settings)
    folder = _snapshot(settings, is_local_only=False)
    assert folder is not None
    return folder


def _snapshot(settings: EncoderSettings, *, is_local_only: bool) -> Path | None:
    repository = hub_repository(settings)
    require_library("huggingface_hub", EXTRAS.get(settings.library, EXTRAS[TIMM]))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            str(repository),
            revision=settings.revision,
            allow_patterns=_PATTERNS,
            local_files_only=is_local_only,
        )
    except LocalEntryNotFoundError as error:
        if is_local_only:
            return None
        raise _not_available(settings, error) from error
    except Exception as error:
        # No network, no such model or revision, a full disk.
        raise _not_available(settings, error) from error
    return Path(folder)


def _not_available(settings: EncoderSettings, error: Exception) -> EncoderError:
    revision = f" --revision {settings.revision}" if settings.revision else ""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return EncoderError(
        f"name: the weights of {settings.name} are not on this machine and cannot be downloaded "
        f"({reason}); where the network allows it, run 'imgsim encoder pull {settings.name}"
        f"{revision}', or copy the model to a folder and use 'local-dir:FOLDER', or use "
        f"{IMGSIM_COPY}, whose weights are part of the package"
    )


def library_of_snapshot(folder: Path) -> str:
    """The library whose files a folder has: timm, open_clip or transformers.

    Raises:
        EncoderError: when the folder has no configuration of one of them.
    """
    if (folder / _OPEN_CLIP_CONFIG).is_file():
        return OPEN_CLIP
    config = read_config(folder)
    if "architecture" in config:
        return TIMM
    if "model_type" in config:
        return TRANSFORMERS
    raise EncoderError(
        f"name: {folder / _CONFIG} is not a configuration of timm (key 'architecture') or "
        "transformers (key 'model_type'), and there is no open_clip_config.json"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a timm or transformers model.

    Raises:
        EncoderError: when it is missing or not valid.
    """
    path = folder / _CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"name: {path} cannot be read ({error}); give the folder of a saved model"
        ) from error
    return config


def snapshot_digest(settings: EncoderSettings, folder: Path) -> str:
    """What tells the versions of a model apart: the commit of the Hub, else the files' content."""
    if settings.library != LOCAL_DIR:
        # The Hub's cache names the folder of a snapshot after its commit.
        return folder.name
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors"):
            digest.update(f"{path.name}\n".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def require_library(module: str, extra: str) -> None:
    """Raise EncoderError unless a library is installed."""
    if importlib.util.find_spec(module) is None:
        raise EncoderError(
            f"name: this encoder needs {module}; run: pip install 'imgsim_assets[{extra}]'"
        )
