"""A model of a catalog: its items and vectors are read from the store, not computed."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from imgsim_assets.encoders.recorded import FINGERPRINT, encoder_from_commit, with_overrides
from imgsim_assets.errors import SettingsError
from imgsim_assets.pipeline.invariants import require_invariants
from imgsim_assets.pipeline.settings import NAME_PATTERN
from imgsim_assets.search.embedder import Embedder
from imgsim_assets.search.image_ref import ImageDigests, ImageRef
from imgsim_assets.search.neighbors import Metric
from imgsim_assets.search.references import References
from imgsim_assets.search.summary import Provenance
from imgsim_assets.similarity import items
from imgsim_assets.storage.store import Store


def find_catalog(dataset: Any, store: Store | str | Path | None) -> Store | None:
    """The store, if `dataset` is the name of a catalog in it; None for any other dataset."""
    if not isinstance(dataset, str) or not re.fullmatch(NAME_PATTERN, dataset):
        return None
    opened = store if isinstance(store, Store) else Store.open(store)
    if opened.table(f"{dataset}/embeddings").latest() is not None:
        return opened
    if Path(dataset).exists():
        return None
    raise SettingsError(
        f"dataset: {dataset!r} is neither a folder nor a catalog with embeddings in "
        f"{opened.url}; materialize it, or set 'store'"
    )


def read_catalog(
    store: Store,
    name: str,
    label: str | None,
    metric: Metric,
    device: str | None,
    weights: str | None,
    factory: str | None,
) -> tuple[References, Embedder, Provenance]:
    """The parts of a model of a catalog with its current vectors."""
    require_invariants(store, name)
    commit, embedded = items.from_embeddings(store, name)
    if not len(embedded):
        raise SettingsError(f"dataset: catalog {name} has no image with a vector yet")
    if label not in (None, "id"):
        raise SettingsError(f"label: a catalog's labels are its ids; omit {label!r}")
    labels = embedded.keys["id"].alias("label")
    sha256 = embedded.keys["sha256"].to_list()
    images = [
        ImageRef(item, partial(store.blobs.get, digest))
        for item, digest in zip(labels.to_list(), sha256, strict=True)
    ]
    digests = [ImageDigests(sha256=digest) for digest in sha256]
    fingerprint = commit.properties[FINGERPRINT]
    settings = with_overrides(encoder_from_commit(commit), device, weights)
    catalog = {"name": name, "version": commit.version, "store": store.url}
    return (
        References(metric, labels, embedded.vectors, digests, images),
        Embedder(settings, fingerprint=fingerprint, factory=factory, weights=weights),
        Provenance("id", "url", catalog=catalog, fingerprint=fingerprint),
    )
