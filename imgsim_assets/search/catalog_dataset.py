"""A catalog as a dataset: its items, images and vectors are read from the store."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from imgsim_assets.catalog.image_key import IMAGE
from imgsim_assets.encoders.recorded import FINGERPRINT, encoder_from_commit
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import SettingsError
from imgsim_assets.index.stage import embedded_images, vectors_of
from imgsim_assets.pipeline.invariants import require_invariants
from imgsim_assets.pipeline.settings import NAME_PATTERN
from imgsim_assets.search.dataset import CatalogVersion, Dataset, DatasetOptions
from imgsim_assets.search.image_ref import ImageDigests, ImageRef
from imgsim_assets.search.item_rows import ItemRows
from imgsim_assets.storage.store import Store


def find_catalog(dataset: Any, options: DatasetOptions) -> Store | None:
    """The store, if `dataset` is the name of a catalog in it; None for any other dataset."""
    if not isinstance(dataset, str) or not re.fullmatch(NAME_PATTERN, dataset):
        return None
    given = options.store
    store = given if isinstance(given, Store) else Store.open(given)
    if store.table(f"{dataset}/embeddings").latest() is not None:
        return store
    if Path(dataset).exists():
        return None
    raise SettingsError(
        f"{options.argument}: {dataset!r} is neither a folder nor a catalog with embeddings in "
        f"{store.url}; materialize it, or set 'store: URL'"
    )


def read_catalog(store: Store, name: str, options: DatasetOptions) -> Dataset:
    """The items of a catalog that have a vector, with their images."""
    require_invariants(store, name)
    commit, keys = embedded_images(store, name)
    if not keys.height:
        raise SettingsError(f"{options.argument}: catalog {name} has no image with a vector yet")
    if options.label not in (None, "id"):
        raise SettingsError(f"label: a catalog's labels are its ids; omit {options.label!r}")
    fingerprint = commit.properties[FINGERPRINT]
    ids = keys["id"]
    numbers = keys[IMAGE].to_numpy()
    sha256 = keys["sha256"].to_list()
    rows = ItemRows(ids.rle_id().to_numpy().astype(np.int64), numbers)
    return Dataset(
        labels=ids.unique(maintain_order=True).alias("label"),
        feature="url",
        rows=rows,
        images=[
            ImageRef(f"{item} image {number}" if number else item, partial(store.blobs.get, digest))
            for item, number, digest in zip(ids.to_list(), numbers.tolist(), sha256, strict=True)
        ],
        vectors=vectors_of(VectorTable(store, name, fingerprint), keys["sha256"]),
        has_vector=np.ones(len(numbers), np.bool_),
        digests=[ImageDigests(sha256=digest) for digest in sha256],
        catalog=CatalogVersion(
            name=name,
            version=commit.version,
            store=store.url,
            encoder=encoder_from_commit(commit),
            fingerprint=fingerprint,
        ),
        has_lists=rows.has_numbers,
    )
