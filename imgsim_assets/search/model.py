"""ImageSimilarityModel: reference images that can be queried, as one Python object."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.encoder import Encoder
from imgsim_assets.encoders.recorded import (
    FINGERPRINT,
    encoder_from_commit,
    to_metadata,
    with_overrides,
)
from imgsim_assets.encoders.settings import HOG_COLOR, EncoderSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.search import gallery, saved_model
from imgsim_assets.search.dataset import Dataset, DatasetOptions, read_dataset
from imgsim_assets.search.features import (
    Embedded,
    Embedder,
    Failure,
    encoder_settings,
    log_to,
    report_failures,
)
from imgsim_assets.search.graph import SimilarityGraph
from imgsim_assets.search.image_ref import ImageDigests, ImageRef
from imgsim_assets.search.neighbors import (
    Metric,
    Neighbors,
    SearchParams,
    find_neighbors,
    is_normalized,
    normalize,
)
from imgsim_assets.search.orientation import ORIENTATIONS, UPRIGHT
from imgsim_assets.similarity import items
from imgsim_assets.similarity.cosine import Floats
from imgsim_assets.storage.store import Store

if TYPE_CHECKING:
    from imgsim_assets.search.export import Parity

QUERY_LABEL = "query_label"
REFERENCE_LABEL = "reference_label"
_CATALOG = re.compile(r"[a-z][a-z0-9_]*")
# Settings that say where an encoder runs, not what it is.
_PLACES = {"device", "num_gpus"}
_FAILURES = {"label": pl.String, "status": pl.String, "detail": pl.String}


class ImageSimilarityModel:
    """Reference items, each with a label and a vector, and an encoder for new images.

    Make one with `create` or `load_model`. `failures` has a row (label, status, detail) for
    every item of the dataset that was left out.
    """

    def __init__(
        self,
        labels: pl.Series,
        vectors: Floats,
        keys: Sequence[ImageDigests],
        images: Sequence[ImageRef | None],
        embedder: Embedder,
        metric: Metric,
        facts: Mapping[str, Any],
    ) -> None:
        self._labels = labels
        self._vectors = vectors
        self._keys = list(keys)
        self._images = list(images)
        self._embedder = embedder
        self._facts = dict(facts)
        self.metric: Metric = metric
        self.failures = pl.DataFrame(schema=_FAILURES)

    # ---- making one -----------------------------------------------------------------

    @classmethod
    def create(
        cls,
        dataset: Any,
        label: str | None = None,
        feature: str | None = None,
        encoder: str | EncoderSettings | Mapping[str, Any] = "mobilenet_v3_large",
        batch_size: int | None = None,
        progress: bool = True,
        *,
        metric: Metric = "euclidean",
        ignore_failure: bool = True,
        download: DownloadSettings | None = None,
        store: Store | str | Path | None = None,
        device: str | None = None,
        weights: str | None = None,
    ) -> Self:
        """A model of the images or vectors of a dataset.

        Args:
            dataset: a frame of polars or pandas; a folder or glob; a list of PIL images, bytes,
                paths, URLs or vectors; or the name of a catalog in the store, of which nothing
                is computed anew (write `./name` for a folder of that name).
            label: the column of labels, whole numbers or text; default row numbers from 0, and
                the ids of a catalog.
            feature: the column of images or of vectors; default the only one there can be.
            encoder: an encoder by name or settings; a catalog has its own.
            batch_size: images a forward pass; default by the device.
            progress: whether long steps say on stderr how they are getting on.
            metric: "euclidean" or "cosine" (1 - cosine). Vectors of images have length 1;
                vectors of one's own are compared as they are.
            ignore_failure: whether an image that cannot be used is left out, with a warning
                and a row in `failures`, or an error.
            download: manners and limits of fetching, for URLs.
            store: where catalogs are; default IMGSIM_STORE, else data/store.
            device: where images are encoded, in place of what the encoder says.
            weights: where a catalog's weights file lies on this machine, or the weights of
                `encoder`.

        Raises:
            SettingsError: naming the argument and the mend.
            EncoderError: when the encoder cannot be loaded.
        """
        started = time.monotonic()
        _check_metric(metric)
        opened = _catalog_store(dataset, store)
        if opened is not None:
            return cls._of_catalog(opened, dataset, label, metric, started, device, weights)
        reading = DatasetOptions(
            "dataset", label, feature, download or DownloadSettings(), log_to(progress)
        )
        read = read_dataset(dataset, reading)
        settings = with_overrides(encoder_settings(encoder), device, weights)
        unit_rows = read.vectors is None or is_normalized(read.vectors)
        embedder = Embedder(settings, unit=unit_rows or metric == "cosine")
        facts = {
            "label": label,
            "feature": read.feature,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "catalog": None,
        }
        empty = np.empty((0, 0), np.float32)
        model = cls(read.labels.clear(), empty, [], [], embedder, metric, facts)
        model._append(read, batch_size, reading, ignore_failure=ignore_failure)
        model._facts["training_time"] = time.monotonic() - started
        return model

    @classmethod
    def _of_catalog(
        cls,
        store: Store,
        name: str,
        label: str | None,
        metric: Metric,
        started: float,
        device: str | None,
        weights: str | None,
    ) -> Self:
        """A model of a catalog as its embeddings are now: vectors and labels are read."""
        commit, found = items.from_embeddings(store, name)
        if not len(found):
            raise SettingsError(f"dataset: catalog {name} has no image with a vector yet")
        labels = found.keys["id"].alias("label")
        if label not in (None, "id"):
            raise SettingsError(f"label: a catalog's labels are its ids; leave out {label!r}")
        sha256 = found.keys["sha256"].to_list()
        encoder_fingerprint = commit.properties[FINGERPRINT]
        embedder = Embedder(
            with_overrides(encoder_from_commit(commit), device, weights),
            encoder_fingerprint=encoder_fingerprint,
        )
        return cls(
            labels,
            found.vectors,
            [ImageDigests(sha256=digest) for digest in sha256],
            [
                ImageRef(item, partial(store.blobs.get, digest))
                for item, digest in zip(labels.to_list(), sha256, strict=True)
            ],
            embedder,
            metric,
            {
                "label": "id",
                "feature": "url",
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "training_time": time.monotonic() - started,
                "catalog": {"name": name, "version": commit.version, "store": store.url},
                FINGERPRINT: encoder_fingerprint,
            },
        )

    # ---- asking ---------------------------------------------------------------------

    def query(
        self,
        dataset: Any,
        label: str | None = None,
        k: int | None = 5,
        radius: float | None = None,
        progress: bool = True,
        batch_size: int | None = None,
        *,
        feature: str | None = None,
        orientations: bool = False,
        ignore_failure: bool = True,
        download: DownloadSettings | None = None,
    ) -> pl.DataFrame:
        """The reference items nearest to each image or vector of a dataset.

        Args:
            dataset: what `create` takes, or a single image, path, URL or vector.
            label: the column of query labels; default row numbers from 0.
            k: how many neighbors at most, None for no limit.
            radius: the greatest distance, inclusive, None for no limit. With neither k nor
                radius, every query is paired with every reference.
            progress: whether long steps say on stderr how they are getting on.
            batch_size: images a forward pass; default by the device.
            feature: the column of images or vectors; default the only one there can be.
            orientations: whether each image is also turned and mirrored, eight views in all;
                of those the nearest counts, and the column `orientation` names it.
            ignore_failure: whether an image that cannot be used is left out with a warning,
                or an error.
            download: manners and limits of fetching, for URLs.

        Returns:
            query_label, reference_label, distance (Float64), rank (Int32, from 1), by the order
            of the queries and rank. An image of the model finds itself at distance 0; of items
            equally near, the one added first comes first.

        Raises:
            SettingsError: naming the argument and the mend.
        """
        search = SearchParams(k, radius)
        reading = DatasetOptions(
            "dataset", label, feature, download or DownloadSettings(), log_to(progress)
        )
        read = read_dataset(dataset, reading)
        if read.images is None:
            if orientations:
                raise SettingsError("orientations: vectors cannot be turned; query with images")
            positions, vectors, failures = self._given_vectors(read)
            report_failures(failures, len(read), "dataset", ignore_failure=ignore_failure)
            return self._answer(read.labels, positions, self._search(vectors, search))
        embedded = self._embed(read.images, batch_size, reading)
        report_failures(embedded.failures, len(read), "dataset", ignore_failure=ignore_failure)
        if not orientations:
            found = self._search(embedded.vectors, search)
            return self._answer(read.labels, embedded.positions, found)
        return self._best_orientation(read, embedded, batch_size, reading, search)

    def _best_orientation(
        self,
        read: Dataset,
        upright: Embedded,
        batch_size: int | None,
        reading: DatasetOptions,
        search: SearchParams,
    ) -> pl.DataFrame:
        """Each pair at the distance of its nearest orientation: what is best of all is best of one."""
        answers = []
        for number, orientation in enumerate(ORIENTATIONS):
            seen = upright
            if orientation != UPRIGHT:
                seen = self._embedder.embed(
                    read.images or [],
                    orientation=orientation,
                    batch_size=batch_size,
                    log=reading.log,
                )
            found = self._search(seen.vectors, search)
            answers.append(
                pl.DataFrame(
                    {
                        "query": seen.positions[found.query],
                        "reference": found.reference,
                        "distance": found.distance,
                        "orientation": np.full(len(found.query), number),
                    }
                )
            )
        best = (
            pl.concat(answers)
            .sort("query", "reference", "distance", "orientation")
            .unique(subset=["query", "reference"], keep="first", maintain_order=True)
            .sort("query", "distance", "reference")
        )
        if search.k is not None:
            best = best.filter(pl.int_range(pl.len()).over("query") < search.k)
        found = Neighbors(
            best["query"].to_numpy(), best["reference"].to_numpy(), best["distance"].to_numpy()
        )
        names = [ORIENTATIONS[number].name for number in best["orientation"].to_list()]
        rows = self._answer(read.labels, np.arange(len(read)), found)
        return rows.with_columns(pl.Series("orientation", names, dtype=pl.String))

    def similarity_graph(
        self,
        k: int | None = 5,
        radius: float | None = None,
        include_self_edges: bool = False,
        output_type: Literal["graph", "frame"] = "graph",
    ) -> Any:
        """Edges from every reference item to its nearest.

        Args:
            k: how many of each, None for no limit.
            radius: the greatest distance, inclusive, None for no limit.
            include_self_edges: whether an item counts as its own neighbor, the first one.
            output_type: "graph" for a SimilarityGraph, "frame" for a frame with the columns of
                `query`.
        """
        if output_type not in ("graph", "frame"):
            raise SettingsError(f"output_type is {output_type!r}; use 'graph' or 'frame'")
        search = SearchParams(k, radius)
        # Every item may find itself, so one more is asked for.
        found = self._search(self._vectors, SearchParams(None if k is None else k + 1, radius))
        found = found.where(found.query != found.reference)
        if include_self_edges:
            found = _with_self(found, len(self))
        if search.k is not None:
            found = found.first(search.k)
        frame = self._answer(self._labels, np.arange(len(self)), found)
        if output_type == "frame":
            return frame
        edges = frame.rename({QUERY_LABEL: "__src_id", REFERENCE_LABEL: "__dst_id"})
        return SimilarityGraph(self._labels.alias("__id").to_frame(), edges)

    def explore(
        self,
        path: str | os.PathLike[str] = "gallery.html",
        result: pl.DataFrame | None = None,
        queries: Any = None,
        *,
        label: str | None = None,
        feature: str | None = None,
        k: int = 5,
        download: DownloadSettings | None = None,
    ) -> Path:
        """Write an HTML gallery of images beside their neighbors, and return its path.

        The file holds everything it shows: it works offline, with a histogram of the distances
        and filters by distance and label.

        Args:
            path: the HTML file.
            result: what `query` returned, or a part of it; default every item with its `k`
                nearest others.
            queries: the dataset that was queried, for its images, or the model itself where
                the result is that of `similarity_graph`.
            label: the column of query labels, as for `query`.
            feature: the column of images, as for `query`.
            k: neighbors of every item, where no result is given.
            download: manners and limits of fetching, for queries behind URLs.
        """
        own = dict(zip(map(str, self._labels.to_list()), self._images, strict=True))
        if result is None:
            result, queries = self.similarity_graph(k, output_type="frame"), self
        if queries is None:
            # Labels alone could show the model's images where others were asked for.
            raise SettingsError(
                "queries: give the dataset that was queried, or the model itself for its graph"
            )
        lacking = {QUERY_LABEL, REFERENCE_LABEL, "distance"} - set(result.columns)
        if lacking:
            raise SettingsError(
                f"result: it has no column {min(lacking)!r}; give what query returned"
            )
        asked: Mapping[str, ImageRef | None] = own
        if queries is not self:
            read = read_dataset(queries, _reading(label, feature, download, progress=False))
            images: Sequence[ImageRef | None] = read.images or [None] * len(read)
            asked = dict(zip(map(str, read.labels.to_list()), images, strict=True))
        return gallery.write_result(path, result, asked, own, title=repr(self))

    def _search(self, vectors: Floats, search: SearchParams) -> Neighbors:
        if self.metric == "cosine":
            return find_neighbors(normalize(vectors, "dataset"), self._vectors, self.metric, search)
        return find_neighbors(vectors, self._vectors, self.metric, search)

    def _answer(self, labels: pl.Series, positions: Any, found: Neighbors) -> pl.DataFrame:
        """Rows of labels for rows of numbers; `positions` are where the queries were."""
        frame = pl.DataFrame(
            {
                QUERY_LABEL: labels.gather(np.asarray(positions)[found.query]),
                REFERENCE_LABEL: self._labels.gather(found.reference),
                "distance": found.distance,
                "query": found.query,
            },
            schema_overrides={"distance": pl.Float64},
        )
        rank = pl.int_range(1, pl.len() + 1).over("query").cast(pl.Int32).alias("rank")
        return frame.with_columns(rank).drop("query")

    def _embed(
        self, images: Sequence[ImageRef], batch_size: int | None, reading: DatasetOptions
    ) -> Embedded:
        known = {
            digest: vector
            for keys, vector in zip(self._keys, self._vectors, strict=True)
            for digest in (keys.sha256, keys.pixels)
            if digest is not None
        }
        embedded = self._embedder.embed(images, known=known, batch_size=batch_size, log=reading.log)
        self._check_width(embedded.vectors, f"{reading.argument}: the encoder's vectors have")
        return embedded

    def _given_vectors(self, read: Dataset) -> tuple[NDArray[np.int64], Floats, list[Failure]]:
        """The positions and vectors of rows that have one, and the rows that have none."""
        if read.vectors is None or read.blank is None:
            raise AssertionError("a dataset without images has vectors")
        self._check_width(read.vectors, "dataset: its vectors have")
        positions = np.flatnonzero(~read.blank)
        failures = [
            Failure(row, f"row {row}", "no_vector", "the value is null")
            for row in np.flatnonzero(read.blank).tolist()
        ]
        return positions, read.vectors[positions], failures

    def _check_width(self, vectors: Floats, subject: str) -> None:
        if len(self) and len(vectors) and vectors.shape[1] != self._vectors.shape[1]:
            raise SettingsError(
                f"{subject} {vectors.shape[1]} numbers, the model's {self._vectors.shape[1]}; "
                "use the encoder (or the features) that the model was created with"
            )

    # ---- changing -------------------------------------------------------------------

    def add(
        self,
        dataset: Any,
        label: str | None = None,
        *,
        feature: str | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        ignore_failure: bool = True,
        download: DownloadSettings | None = None,
    ) -> None:
        """Add reference items; only the new images are encoded.

        Without `label`, they are numbered on from the greatest label there is. Raises
        SettingsError for a label that is there already, or is of another type.
        """
        reading = DatasetOptions(
            "dataset", label, feature, download or DownloadSettings(), log_to(progress)
        )
        read = read_dataset(dataset, reading)
        if label is None and self._labels.dtype == pl.Int64:
            most = self._labels.max()
            start = int(most) + 1 if isinstance(most, int) else 0
            numbered = pl.Series("label", range(start, start + len(read)), dtype=pl.Int64)
            read = Dataset(numbered, None, read.feature, read.images, read.vectors, read.blank)
        self._append(read, batch_size, reading, ignore_failure=ignore_failure)

    def _append(
        self,
        read: Dataset,
        batch_size: int | None,
        reading: DatasetOptions,
        *,
        ignore_failure: bool,
    ) -> None:
        self._check_new_labels(read.labels)
        if read.images is not None:
            embedded = self._embed(read.images, batch_size, reading)
            self._facts[FINGERPRINT] = self._embedder.encoder_fingerprint
            failures = list(embedded.failures)
            positions, vectors, keys = embedded.positions, embedded.vectors, list(embedded.keys)
            images: list[ImageRef | None] = [read.images[at] for at in positions.tolist()]
        else:
            positions, vectors, failures = self._given_vectors(read)
            keys = [ImageDigests()] * len(positions)
            images = [None] * len(positions)
        report_failures(failures, len(read), "dataset", ignore_failure=ignore_failure)
        if self.metric == "cosine":
            vectors = normalize(vectors, "dataset")
        self._note_failures(read.labels, failures)
        self._labels = pl.concat([self._labels, read.labels.gather(positions)])
        self._vectors = np.concatenate([self._vectors, vectors]) if len(self._keys) else vectors
        self._keys += keys
        self._images += images

    def _check_new_labels(self, labels: pl.Series) -> None:
        if labels.dtype != self._labels.dtype:
            raise SettingsError(
                f"label: the new labels are {labels.dtype}, the model's {self._labels.dtype}; name "
                "a column of that type"
            )
        repeated = labels.filter(labels.is_duplicated() | labels.is_in(self._labels.implode()))
        if len(repeated):
            raise SettingsError(
                f"label: {repeated[0]!r} stands more than once ({len(repeated)} rows are not "
                "unique); every item needs a label of its own"
            )

    def _note_failures(self, labels: pl.Series, failures: Sequence[Failure]) -> None:
        rows = [(str(labels[item.position]), item.status, item.detail) for item in failures]
        noted = pl.DataFrame(rows, schema=_FAILURES, orient="row")
        self.failures = pl.concat([self.failures, noted])

    def remove(self, labels: Any) -> None:
        """Take reference items out by label, one or several.

        Raises SettingsError, and changes nothing, when one is not there.
        """
        is_one = isinstance(labels, str | int) or not hasattr(labels, "__iter__")
        gone = [labels] if is_one else list(labels)
        known = set(self._labels.to_list())
        for label in gone:
            if label not in known:
                raise SettingsError(f"labels: there is no item {label!r}")
        kept = np.flatnonzero(~np.isin(self._labels.to_list(), gone))
        self._labels = self._labels.gather(kept)
        self._vectors = self._vectors[kept]
        self._keys = [self._keys[at] for at in kept.tolist()]
        self._images = [self._images[at] for at in kept.tolist()]

    # ---- keeping --------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model into a folder, replacing the model that is there if any.

        Vectors, labels and the encoder's settings are kept, its weights and the images are
        not: what was read from a path or a store is read from there again.
        """
        references = pl.DataFrame(
            {
                "label": self._labels,
                "sha256": [keys.sha256 for keys in self._keys],
                "pixels": [keys.pixels for keys in self._keys],
                "name": [image.name if image else None for image in self._images],
                "vector": self._vectors,
            },
            schema_overrides={
                "sha256": pl.String,
                "pixels": pl.String,
                "name": pl.String,
                "vector": pl.Array(pl.Float32, self._vectors.shape[1]),
            },
        )
        facts = {
            **self._facts,
            "metric": self.metric,
            "unit": self._embedder.unit,
            "encoder": to_metadata(self._embedder.settings),
            "failures": self.failures.to_dicts(),
        }
        saved_model.write_model(Path(path), facts, references)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | None = None,
        weights: str | None = None,
    ) -> Self:
        """A model that `save` wrote; see `load_model`."""
        document, references = saved_model.read_model(Path(path))
        facts = {
            key: document.get(key)
            for key in ("label", "feature", "created", "training_time", "catalog", FINGERPRINT)
        }
        settings = with_overrides(
            EncoderSettings.model_validate(document["encoder"]), device, weights
        )
        embedder = Embedder(settings, unit=document["unit"], encoder_fingerprint=facts[FINGERPRINT])
        keys = [ImageDigests(*row) for row in references.select("sha256", "pixels").iter_rows()]
        catalog = facts["catalog"]
        images = [
            _image_again(name, sha256, catalog["store"] if catalog else None)
            for name, sha256 in references.select("name", "sha256").iter_rows()
        ]
        vectors = np.ascontiguousarray(references["vector"].to_numpy(), dtype=np.float32)
        model = cls(references["label"], vectors, keys, images, embedder, document["metric"], facts)
        model.failures = pl.DataFrame(document["failures"], schema=_FAILURES)
        return model

    # ---- describing -----------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"ImageSimilarityModel({len(self)} items, {self._encoder_name()}, {self.metric})"

    @property
    def labels(self) -> pl.Series:
        """The labels of the reference items, in the order they were added."""
        return self._labels

    @property
    def vectors(self) -> Floats:
        """A copy of the reference vectors, (n, d) float32, in the order of the labels."""
        return self._vectors.copy()

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded if it was not yet."""
        return self._embedder.encoder

    @property
    def has_unit_vectors(self) -> bool:
        """Whether vectors of images are brought to length 1 before they are compared."""
        return self._embedder.unit

    def export_onnx(self, path: str | os.PathLike[str], k: int = 5) -> Parity:
        """Write one ONNX file: prepared images in, labels and distances of the nearest out.

        Needs the extra `onnx`. See imgsim_assets.search.export.export_onnx for the file's inputs
        and outputs and for what is raised. Returns how the file compares with `query`.
        """
        from imgsim_assets.search.export import export_onnx

        return export_onnx(self, path, k)

    def summary(self, output: Literal["str", "dict"] | None = None) -> Any:
        """What the model is: printed, or returned as "str" or "dict"."""
        facts = self._summary()
        if output == "dict":
            return facts
        if output not in (None, "str"):
            raise SettingsError(f"output is {output!r}; use None, 'str' or 'dict'")
        width = max(len(name) for name in facts)
        lines = [f"{name:<{width}} : {_shown(value)}" for name, value in facts.items()]
        text = "\n".join(["ImageSimilarityModel", "", *lines])
        if output == "str":
            return text
        print(text)
        return None

    def _summary(self) -> dict[str, Any]:
        return {
            "model": self._encoder_name(),
            "metric": self.metric,
            "num_examples": len(self),
            "num_failures": self.failures.height,
            "label": self._facts.get("label"),
            "feature": self._facts.get("feature"),
            "num_features": 1,
            "feature_length": int(self._vectors.shape[1]),
            "input_image_shape": _input_shape(self._embedder.settings),
            "catalog": self._facts.get("catalog"),
            "created": self._facts.get("created"),
            "training_time": self._facts.get("training_time"),
        }

    def _encoder_name(self) -> str:
        return self._embedder.settings.describe()


def load_model(
    path: str | os.PathLike[str], *, device: str | None = None, weights: str | None = None
) -> ImageSimilarityModel:
    """A model that `ImageSimilarityModel.save` wrote, on whatever device there is now.

    Images are encoded on `device`, with the weights file that lies at `weights`, where these
    are given; the file must be the one that the model was made with, which the first image
    shows. Raises StoreError when there is no model or another version wrote it, and
    CorruptFileError when a file was changed.
    """
    return ImageSimilarityModel.load(path, device=device, weights=weights)


def _reading(
    label: str | None, feature: str | None, download: DownloadSettings | None, progress: bool
) -> DatasetOptions:
    return DatasetOptions(
        "dataset", label, feature, download or DownloadSettings(), log_to(progress)
    )


def _check_metric(metric: str) -> None:
    if metric not in ("euclidean", "cosine"):
        raise SettingsError(f"metric is {metric!r}; use 'euclidean' or 'cosine'")


def _catalog_store(dataset: Any, store: Store | str | Path | None) -> Store | None:
    """The store that has a catalog of this name, None for what is no catalog."""
    if not isinstance(dataset, str) or not _CATALOG.fullmatch(dataset):
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


def _image_again(name: str | None, sha256: str | None, store: str | None) -> ImageRef | None:
    """An image of a saved model, if it has a path or lies in a store."""
    if name is not None and Path(name).is_file():
        return ImageRef(name, Path(name).read_bytes)
    if name is not None and sha256 is not None and store is not None:
        return ImageRef(name, lambda: Store.open(store).blobs.get(sha256))
    return None


def _with_self(others: Neighbors, count: int) -> Neighbors:
    """With every item as its own neighbor, before others that are equally near."""
    own = np.arange(count)
    query = np.concatenate([own, others.query])
    reference = np.concatenate([own, others.reference])
    distance = np.concatenate([np.zeros(count), others.distance])
    order = np.lexsort((reference, query != reference, distance, query))
    return Neighbors(query[order], reference[order], distance[order])


def _input_shape(settings: EncoderSettings) -> tuple[int, int, int] | None:
    """Height, width and channels of what the encoder sees; None for one of one's own."""
    if settings.factory is not None:
        return None
    if settings.name == HOG_COLOR:
        from imgsim_assets.encoders import hog_color

        return (hog_color.SIZE, hog_color.SIZE, 3)
    side = BACKBONES[settings.name].input_size(settings.weights)
    return (side, side, 3)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return json.dumps(value) if isinstance(value, dict) else str(value)
