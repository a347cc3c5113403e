"""A saved model: a folder with `model.json`, which has the checksum of the references' file.

`model.json` carries its own checksum, too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl

from imgsim_assets.encoders.recorded import parse_recorded, to_metadata, with_overrides
from imgsim_assets.errors import CorruptFileError, SettingsError, StoreError
from imgsim_assets.search.embedder import Embedder
from imgsim_assets.search.failures import FAILURES_SCHEMA
from imgsim_assets.search.image_ref import ImageDigests, ImageRef
from imgsim_assets.search.item_rows import ItemRows
from imgsim_assets.search.neighbors import Metric
from imgsim_assets.search.parts import ModelParts
from imgsim_assets.search.references import References
from imgsim_assets.search.summary import Provenance
from imgsim_assets.storage.location import ENVIRONMENT_VARIABLE
from imgsim_assets.storage.sealed_json import CHECKSUM, is_sealed, seal
from imgsim_assets.storage.store import Store

FORMAT = 4
# Earlier formats that are read as well; format 3 has one image per item.
_READABLE = (3, FORMAT)
DOCUMENT = "model.json"
REFERENCES = "references.parquet"


def is_saved_model(path: Path) -> bool:
    """Whether a folder holds a saved model."""
    return (path / DOCUMENT).is_file()


def write_model(path: Path, parts: ModelParts) -> None:
    """Write a model's folder, or replace the model in it.

    An existing model stays valid until the new one is complete.
    """
    if path.exists() and not is_saved_model(path):
        raise SettingsError(f"path: {path} exists and is not a saved model; choose another path")
    body = io.BytesIO()
    _to_frame(parts.references).write_parquet(body, compression="uncompressed")
    document = {
        "format": FORMAT,
        "kind": "ImageSimilarityModel",
        "sha256": hashlib.sha256(body.getvalue()).hexdigest(),
        **asdict(parts.provenance),
        "metric": parts.references.metric,
        "unit": parts.embedder.normalize,
        "encoder": to_metadata(parts.embedder.settings),
        "failures": parts.failures.to_dicts(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.parent / f".unfinished-{uuid.uuid4().hex}"
    try:
        staged.mkdir()
        (staged / REFERENCES).write_bytes(body.getvalue())
        (staged / DOCUMENT).write_bytes(seal(document))
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
            **references.entries.to_dict(),
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
    path: Path, device: str | None, weights: str | None, factory: str | None
) -> ModelParts:
    """The parts of a saved model.

    Args:
        path: its folder.
        device: replaces that of its encoder.
        weights: replaces those of its encoder.
        factory: the factory that the caller has named; see `recorded.require_named_factory`.

    Raises:
        StoreError: when there is no saved model, or one of another format.
        CorruptFileError: when a file was truncated or changed.
        SettingsError: for a wrong device or path of weights.
    """
    document = _read_document(path)
    try:
        body = (path / REFERENCES).read_bytes()
    except FileNotFoundError:
        raise CorruptFileError(f"{path / REFERENCES} is missing; save the model again") from None
    if hashlib.sha256(body).hexdigest() != document["sha256"]:
        raise CorruptFileError(
            f"{path / REFERENCES} does not match the checksum in {DOCUMENT}; save the model again"
        )
    recorded = parse_recorded(document.get("encoder"), str(path / DOCUMENT))
    encoder = with_overrides(recorded, device, weights)
    try:
        saved: dict[str, Any] = {key.name: document.get(key.name) for key in fields(Provenance)}
        provenance = Provenance(**saved)
        if document["metric"] not in get_args(Metric):
            raise ValueError(f"metric {document['metric']!r}")
        references = _from_frame(
            pl.read_parquet(io.BytesIO(body)), document["metric"], provenance.catalog
        )
        # Models of format 3 have one image per item.
        failures = [{"image": 0, **row} for row in document["failures"]]
        omitted = pl.DataFrame(failures, schema=FAILURES_SCHEMA)
        embedder = Embedder(
            encoder,
            normalize=bool(document["unit"]),
            fingerprint=provenance.fingerprint,
            factory=factory,
            weights=weights,
        )
    except (KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise CorruptFileError(
            f"{path} does not hold what a saved model has ({error}); save the model again"
        ) from error
    return ModelParts(references, embedder, provenance, omitted)


def _read_document(path: Path) -> dict[str, Any]:
    try:
        data = (path / DOCUMENT).read_bytes()
        document = json.loads(data)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"path: {str(path)!r} holds no saved model ({DOCUMENT}); give the folder that was "
            "given to save"
        ) from None
    except (ValueError, OSError) as error:
        raise CorruptFileError(f"{path / DOCUMENT} cannot be read: {error}") from error
    if isinstance(document, dict) and not is_sealed(data) and CHECKSUM in document:
        raise CorruptFileError(
            f"{path / DOCUMENT} was changed: its checksum does not match; save the model again"
        )
    if not isinstance(document, dict) or document.get("kind") != "ImageSimilarityModel":
        raise StoreError(f"path: {path / DOCUMENT} is not that of an ImageSimilarityModel")
    if document.get("format") not in _READABLE:
        formats = " and ".join(map(str, _READABLE))
        raise StoreError(
            f"path: {path} was saved in format {document.get('format')!r}, and this version of "
            f"imgsim_assets reads formats {formats}; use the version that saved it, or create the "
            "model again"
        )
    if not is_sealed(data):
        raise CorruptFileError(f"{path / DOCUMENT} has lost its checksum; save the model again")
    return document


def _from_frame(
    frame: pl.DataFrame, metric: Metric, catalog: Mapping[str, Any] | None
) -> References:
    store_url = catalog["store"] if catalog else None
    label = frame["label"]
    numbers = frame["image"].to_numpy() if "image" in frame.columns else np.zeros(len(frame))
    return References(
        metric,
        label.unique(maintain_order=True),
        ItemRows(label.rle_id().to_numpy().astype(np.int64), numbers.astype(np.int32)),
        np.ascontiguousarray(frame["vector"].to_numpy(), dtype=np.float32),
        [ImageDigests(*row) for row in frame.select("sha256", "pixels").iter_rows()],
        [
            _image_ref(name, sha256, store_url)
            for name, sha256 in frame.select("name", "sha256").iter_rows()
        ],
    )


def _image_ref(name: str | None, sha256: str | None, store_url: str | None) -> ImageRef | None:
    """The image of a saved item, if it is a file or in a store.

    Whoever wrote the model chose the names. A file is therefore read only if it is the image that
    the model was created with, and a remote store only if it is that of the environment.
    """
    if name is None or sha256 is None:
        return None
    if Path(name).is_file():
        return ImageRef(name, partial(_read_file, Path(name), sha256))
    if store_url is not None and ("://" not in store_url or store_url == _own_store()):
        return ImageRef(name, partial(_read_blob, store_url, sha256))
    return None


def _own_store() -> str:
    return os.environ.get(ENVIRONMENT_VARIABLE, "").rstrip("/")


def _read_file(path: Path, sha256: str) -> bytes:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptFileError(f"{path} has changed since the model was created")
    return data


def _read_blob(store_url: str, sha256: str) -> bytes:
    return Store.open(store_url).blobs.get(sha256)
