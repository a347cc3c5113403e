"""A model on disk: a folder with `model.json`, which names and vouches for everything in it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from imgsim_assets.errors import CorruptFileError, SettingsError, StoreError

FORMAT = 1
DOCUMENT = "model.json"
REFERENCES = "references.parquet"


def write_model(path: Path, facts: Mapping[str, Any], references: pl.DataFrame) -> None:
    """Write a model's folder, or replace the model that is there.

    What is there stays whole until the new one is. Raises SettingsError when the path holds
    something that is no model.
    """
    if path.exists() and not is_saved_model(path):
        raise SettingsError(f"path: {path} is there and is no model; choose another")
    body = io.BytesIO()
    references.write_parquet(body, compression="uncompressed")
    document = {
        "format": FORMAT,
        "kind": "ImageSimilarityModel",
        "sha256": hashlib.sha256(body.getvalue()).hexdigest(),
        **facts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".unfinished-{uuid.uuid4().hex}"
    try:
        unfinished.mkdir()
        (unfinished / REFERENCES).write_bytes(body.getvalue())
        (unfinished / DOCUMENT).write_text(json.dumps(document, indent=1), encoding="utf-8")
        _take_place(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _take_place(unfinished: Path, path: Path) -> None:
    if not path.exists():
        unfinished.rename(path)
        return
    old = path.parent / f".unfinished-{uuid.uuid4().hex}"
    path.rename(old)
    try:
        unfinished.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def is_saved_model(path: Path) -> bool:
    """Whether a folder holds a saved model."""
    return (path / DOCUMENT).is_file()


def read_model(path: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """A saved model's facts and references.

    Raises StoreError when there is none or a later version wrote it, and CorruptFileError when
    a file was cut short or changed.
    """
    try:
        document = json.loads((path / DOCUMENT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"path: {path} holds no saved model ({DOCUMENT}); give the folder that was given to "
            "save"
        ) from None
    except (ValueError, OSError) as error:
        raise CorruptFileError(f"{path / DOCUMENT} cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != "ImageSimilarityModel":
        raise StoreError(f"path: {path / DOCUMENT} is not that of an ImageSimilarityModel")
    if document.get("format") != FORMAT:
        raise StoreError(
            f"path: {path} was saved in format {document.get('format')!r}, and this version of "
            f"imgsim_assets reads format {FORMAT}; use the version that saved it, or create the "
            "model anew"
        )
    try:
        body = (path / REFERENCES).read_bytes()
    except FileNotFoundError:
        raise CorruptFileError(f"{path / REFERENCES} is gone; save the model anew") from None
    if hashlib.sha256(body).hexdigest() != document["sha256"]:
        raise CorruptFileError(
            f"{path / REFERENCES} does not match the checksum in {DOCUMENT}; save the model anew"
        )
    return document, pl.read_parquet(io.BytesIO(body))
