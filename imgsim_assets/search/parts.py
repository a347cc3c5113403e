"""What a model consists of, and how datasets change it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from imgsim_assets.encoders.recorded import with_overrides
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.search.dataset import CatalogVersion, Dataset, DatasetOptions
from imgsim_assets.search.embedder import Embedder
from imgsim_assets.search.failures import FAILURES_SCHEMA, failures_frame
from imgsim_assets.search.neighbors import Metric, is_normalized
from imgsim_assets.search.query import embed_dataset
from imgsim_assets.search.read_dataset import read_dataset
from imgsim_assets.search.references import References
from imgsim_assets.search.summary import Provenance
from imgsim_assets.storage.store import Store


def _no_failures() -> pl.DataFrame:
    return pl.DataFrame(schema=FAILURES_SCHEMA)


@dataclass(frozen=True)
class ModelParts:
    """The parts of a model.

    Attributes:
        references: the items.
        embedder: the encoder.
        provenance: where the model comes from.
        failures: label, image, status and detail of every image that was omitted.
        store: the store that `create` was given, for catalogs by name.
    """

    references: References
    embedder: Embedder
    provenance: Provenance
    failures: pl.DataFrame = field(default_factory=_no_failures)
    store: Store | str | Path | None = None

    def add(self, dataset: Any, options: DatasetOptions) -> ModelParts:
        """The model with the items of a dataset; see `ImageSimilarityModel.add`."""
        items = read_dataset(dataset, options)
        has_numbers = options.label is None and items.catalog is None
        if has_numbers and self.references.labels.dtype == pl.Int64:
            items = items.with_labels(self.references.next_labels(len(items)))
        return self.append(items, options)

    def append(self, items: Dataset, options: DatasetOptions) -> ModelParts:
        """The model with more items; SettingsError for a wrong vector or label."""
        self.references.require_new_labels(items.labels)
        embeddings = embed_dataset(items, self.references, self.embedder, options)
        images = items.optional_images
        references = self.references.append(
            items.labels,
            items.rows.take(embeddings.positions),
            embeddings.vectors,
            embeddings.digests,
            [images[position] for position in embeddings.positions.tolist()],
        )
        provenance = self.provenance
        if items.images is not None:
            provenance = replace(provenance, fingerprint=self.embedder.fingerprint)
        failures = failures_frame(embeddings.failures, items.labels, items.rows)
        return replace(
            self,
            references=references,
            provenance=provenance,
            failures=pl.concat([self.failures, failures]),
        )


def create_parts(
    dataset: Any,
    options: DatasetOptions,
    encoder: EncoderSettings,
    metric: Metric,
    device: str | None,
    weights: str | None,
    factory: str | None,
) -> ModelParts:
    """The parts of a new model; see `ImageSimilarityModel.create`."""
    started = time.monotonic()
    if metric not in ("euclidean", "cosine"):
        raise SettingsError(f"metric is {metric!r}; use 'euclidean' or 'cosine'")
    items = read_dataset(dataset, options)
    if items.catalog is not None:
        embedder = _catalog_embedder(items.catalog, device, weights, factory)
        provenance = _catalog_provenance(items.catalog)
    else:
        is_unit = items.vectors is None or is_normalized(items.vectors[items.has_vector])
        settings = with_overrides(encoder, device, weights)
        embedder = Embedder(
            settings,
            normalize=is_unit or metric == "cosine",
            factory=settings.factory,
            weights=settings.weights,
        )
        provenance = Provenance(options.label, items.feature)
    references = References(metric, items.labels.clear())
    empty = ModelParts(references, embedder, provenance, store=options.store)
    parts = empty.append(items, options)
    seconds = time.monotonic() - started
    return replace(parts, provenance=replace(parts.provenance, training_time=seconds))


def _catalog_embedder(
    catalog: CatalogVersion, device: str | None, weights: str | None, factory: str | None
) -> Embedder:
    settings = with_overrides(catalog.encoder, device, weights)
    return Embedder(settings, fingerprint=catalog.fingerprint, factory=factory, weights=weights)


def _catalog_provenance(catalog: CatalogVersion) -> Provenance:
    return Provenance("id", "url", catalog=catalog.source, fingerprint=catalog.fingerprint)
