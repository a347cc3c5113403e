"""A saved model: a folder with `model.json`, which has the checksum of the references' file."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from imgsim_assets.encoders.recorded import to_metadata, with_overrides
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import CorruptFileError, SettingsError, StoreError
from imgsim_assets.search.embedder import Embedder
from imgsim_assets.search.failures import FAILURES_SCHEMA
from imgsim_assets.search.image_ref import ImageDigests, ImageRef
from imgsim_assets.search.neighbors import Metric
from imgsim_assets.search.references import References
from imgsim_assets.search.summary import Provenance
from imgsim_assets.storage.store import Store

FORMAT = 2
DOCUMENT = "model.json"
REFERENCES = "references.parquet"


def is_saved_model(path: Path) -> bool:
    """Whether a folder holds a saved model."""
    return (path / DOCUMENT).is_file()


def write_model(
    path: Path,
    references: References,
    embedder: Embedder,
    provenance: Provenance,
    failures: pl.DataFrame,
) -> None:
    """Write a model's folder, or replace the model in it.

    An existing model stays valid until the new one is complete.
    """
    if path.exists() and not is_saved_model(path):
        raise SettingsError(f"path: {path} exists and is not a saved model; choose another path")
    body = io.BytesIO()
    _to_frame(references).write_parquet(body, compression="uncompressed")
    document = {
        "format": FORMAT,
        "kind": "ImageSimilarityModel",
        "sha256": hashlib.sha256(body.getvalue()).hexdigest(),
        **asdict(provenance),
        "metric": references.metric,
        "unit": embedder.normalize,
        "encoder": to_metadata(embedder.settings),
        "failures": failures.to_dicts(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.parent / f".unfinished-{uuid.uuid4().hex}"
    try:
        staged.mkdir()
        (staged / REFERENCES).write_bytes(body.getvalue())
        (staged / DOCUMENT).write_text(json.dumps(document, indent=1), encoding="utf-8")
        _replace_folder(path, staged)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _replace_folder(path: Path, staged: Path) -> None:
    if not path.exists():
        staged.rename(path)
        return
    previous = path.parent / f".unfinished-{uuid.uuid4().hex}"
    path.rename(previous)
    try:
        staged.rename(path)
    except OSError:
        previous.rename(path)
        raise
    shutil.rmtree(previous)


def _to_frame(references: References) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "label": references.labels,
            "sha256": [digests.sha256 for digests in references.digests],
            "pixels": [digests.pixels for digests in references.digests],
            "name": [image.name if image else None for image in references.images],
            "vector": references.vectors,
        },
        schema_overrides={
            "sha256": pl.String,
            "pixels": pl.String,
            "name": pl.String,
            "vector": pl.Array(pl.Float32, references.vectors.shape[1]),
        },
    )


def read_model(
    path: Path, device: str | None, weights: str | None
) -> tuple[References, Embedder, Provenance, pl.DataFrame]:
    """The parts of a saved model; `device` and `weights` replace those of its encoder."""
    document = _read_document(path)
    try:
        body = (path / REFERENCES).read_bytes()
    except FileNotFoundError:
        raise CorruptFileError(f"{path / REFERENCES} is missing; save the model again") from None
    if hashlib.sha256(body).hexdigest() != document["sha256"]:
        raise CorruptFileError(
            f"{path / REFERENCES} does not match the checksum in {DOCUMENT}; save the model again"
        )
    saved: dict[str, Any] = {key.name: document.get(key.name) for key in fields(Provenance)}
    provenance = Provenance(**saved)
    encoder = with_overrides(EncoderSettings.model_validate(document["encoder"]), device, weights)
    return (
        _from_frame(pl.read_parquet(io.BytesIO(body)), document["metric"], provenance.catalog),
        Embedder(encoder, normalize=document["unit"], fingerprint=provenance.fingerprint),
        provenance,
        pl.DataFrame(document["failures"], schema=FAILURES_SCHEMA),
    )


def _read_document(path: Path) -> dict[str, Any]:
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
            "model again"
        )
    return document


def _from_frame(
    frame: pl.DataFrame, metric: Metric, catalog: Mapping[str, Any] | None
) -> References:
    store_url = catalog["store"] if catalog else None
    return References(
        metric,
        frame["label"],
        np.ascontiguousarray(frame["vector"].to_numpy(), dtype=np.float32),
        [ImageDigests(*row) for row in frame.select("sha256", "pixels").iter_rows()],
        [
            _image_ref(name, sha256, store_url)
            for name, sha256 in frame.select("name", "sha256").iter_rows()
        ],
    )


def _image_ref(name: str | None, sha256: str | None, store_url: str | None) -> ImageRef | None:
    """The image of a saved item, if it is a file or in a store."""
    if name is not None and Path(name).is_file():
        return ImageRef(name, Path(name).read_bytes)
    if name is not None and sha256 is not None and store_url is not None:
        return ImageRef(name, partial(_read_blob, store_url, sha256))
    return None


def _read_blob(store_url: str, sha256: str) -> bytes:
    return Store.open(store_url).blobs.get(sha256)
