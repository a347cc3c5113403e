"""ImageSimilarityModel: reference images that can be queried, as one Python object."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import SettingsError

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.encoders.encoder import Encoder
    from imgsim_assets.search.dataset import Dataset, DatasetOptions
    from imgsim_assets.search.embedder import Embedder
    from imgsim_assets.search.export import Parity
    from imgsim_assets.search.neighbors import Metric
    from imgsim_assets.search.references import References
    from imgsim_assets.search.summary import Provenance
    from imgsim_assets.similarity.cosine import Floats
    from imgsim_assets.storage.store import Store


class ImageSimilarityModel:
    """Reference items, each with a label and a vector, and an encoder for new images.

    Create one with `create` or `load_model`.

    Attributes:
        failures: label, status and detail of every item that was omitted.

    Example:
        >>> from imgsim_assets import ImageSimilarityModel
        >>> model = ImageSimilarityModel.create([[0.0, 0.0], [3.0, 4.0]])
        >>> model.query([0.0, 0.0], k=2).rows()
        [(0, 0, 0.0, 1), (0, 1, 5.0, 2)]
    """

    def __init__(
        self,
        references: References,
        embedder: Embedder,
        provenance: Provenance,
        failures: pl.DataFrame | None = None,
    ) -> None:
        import polars as pl

        from imgsim_assets.search.failures import FAILURES_SCHEMA

        self._references = references
        self._embedder = embedder
        self._provenance = provenance
        self.failures = pl.DataFrame(schema=FAILURES_SCHEMA) if failures is None else failures

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
        factory: str | None = None,
    ) -> Self:
        """Create a model of the images or vectors of a dataset.

        Args:
            dataset: a Polars or pandas DataFrame; a folder or glob; a list of PIL images, bytes,
                uint8 arrays, paths, URLs or vectors; or the name of a catalog in the store,
                whose vectors are read, not computed (write `./name` for a folder of that name).
            label: the column of labels, integers or text; default row numbers from 0, and for a
                catalog its ids.
            feature: the column of images or vectors; default the only candidate.
            encoder: the name of an encoder, or its settings; a catalog has its own.
            batch_size: images per forward pass; default by the device.
            progress: whether to print progress to stderr.
            metric: "euclidean", or "cosine" for 1 - cosine. Vectors of images have length 1;
                given vectors are compared as they are.
            ignore_failure: whether an image that cannot be used is omitted, with a warning and
                a row in `failures`; else it is an error.
            download: the settings for fetching URLs.
            store: the store of catalogs; default IMGSIM_STORE, else data/store.
            device: where to encode images, instead of the encoder's device.
            weights: the path of the weights file on this machine, for `encoder` or a catalog.
            factory: the factory of a catalog's encoder, as "package.module:function". The code
                that a store names runs only if it is given here.

        Returns:
            The model, with its items in the order of the dataset.

        Raises:
            SettingsError: for a wrong argument; the message names it and the fix.
            EncoderError: when the encoder cannot be loaded.
        """
        from imgsim_assets.encoders.recorded import with_overrides
        from imgsim_assets.search.catalog_model import find_catalog, read_catalog
        from imgsim_assets.search.dataset import DatasetOptions, read_dataset
        from imgsim_assets.search.embedder import Embedder, parse_encoder
        from imgsim_assets.search.neighbors import is_normalized
        from imgsim_assets.search.references import References
        from imgsim_assets.search.summary import Provenance

        started = time.monotonic()
        if metric not in ("euclidean", "cosine"):
            raise SettingsError(f"metric is {metric!r}; use 'euclidean' or 'cosine'")
        catalog_store = find_catalog(dataset, store)
        if catalog_store is not None:
            parts = read_catalog(catalog_store, dataset, label, metric, device, weights, factory)
            model = cls(*parts)
        else:
            options = DatasetOptions(label, feature, download, progress, batch_size, ignore_failure)
            items = read_dataset(dataset, options)
            is_unit = items.vectors is None or is_normalized(items.vectors)
            settings = with_overrides(parse_encoder(encoder), device, weights)
            embedder = Embedder(
                settings,
                normalize=is_unit or metric == "cosine",
                factory=settings.factory,
                weights=settings.weights,
            )
            references = References(metric, items.labels.clear())
            model = cls(references, embedder, Provenance(label, items.feature))
            model._append(items, options)
        seconds = time.monotonic() - started
        model._provenance = replace(model._provenance, training_time=seconds)
        return model

    def query(
        self,
        dataset: Any = None,
        label: str | None = None,
        k: int | None = 5,
        radius: float | None = None,
        progress: bool = True,
        batch_size: int | None = None,
        *,
        text: str | Sequence[str] | None = None,
        feature: str | None = None,
        orientations: bool = False,
        ignore_failure: bool = True,
        download: DownloadSettings | None = None,
    ) -> pl.DataFrame:
        """Find the reference items nearest to each image or vector of a dataset, or to texts.

        Args:
            dataset: any dataset of `create`, or a single image, path, URL or vector.
            label: the column of query labels; default row numbers from 0.
            k: the maximum number of neighbors, None for no limit.
            radius: the maximum distance, inclusive, None for no limit. With neither k nor
                radius, every query is paired with every item.
            progress: as in `create`.
            batch_size: as in `create`.
            text: a text, or several, instead of a dataset, for an encoder with a text tower (CLIP,
                SigLIP). The texts are the query labels. Texts are farther from images than images
                from each other, so that a radius for images does not suit texts.
            feature: as in `create`.
            orientations: whether to search each image in its eight orientations (rotated by
                quarter turns and mirrored). The nearest one counts.
            ignore_failure: whether an image that cannot be used is omitted with a warning; else
                it is an error.
            download: as in `create`.

        Returns:
            query_label, reference_label, distance (Float64) and rank (Int32, from 1), sorted by
            the order of the queries and rank; with `orientations` also orientation (String). An
            image of the model finds itself at distance 0. Of equally near items, the one that
            was added first is first.

        Raises:
            SettingsError: for a wrong argument; the message names it and the fix.
            EncoderError: when the encoder cannot be loaded.
        """
        from imgsim_assets.search.dataset import DatasetOptions, read_dataset
        from imgsim_assets.search.neighbors import SearchParams
        from imgsim_assets.search.orientation import ORIENTATIONS
        from imgsim_assets.search.query import query_frame, text_frame

        params = SearchParams(k, radius)
        if text is not None:
            if dataset is not None or orientations:
                raise SettingsError("text: give either texts or a dataset of images, not both")
            texts = [text] if isinstance(text, str) else list(text)
            return text_frame(texts, self._references, self._embedder, params)
        if dataset is None:
            raise SettingsError("dataset: give images or vectors to search for, or text=...")
        options = DatasetOptions(label, feature, download, progress, batch_size, ignore_failure)
        return query_frame(
            read_dataset(dataset, options),
            self._references,
            self._embedder,
            params,
            options,
            ORIENTATIONS if orientations else None,
        )

    def similarity_graph(
        self,
        k: int | None = 5,
        radius: float | None = None,
        include_self_edges: bool = False,
        output_type: Literal["graph", "frame"] = "graph",
    ) -> Any:
        """Find the nearest other items of every reference item.

        Args:
            k: the maximum number of edges per item, None for no limit.
            radius: the maximum distance, inclusive, None for no limit.
            include_self_edges: whether each item is its own first neighbor.
            output_type: "graph" for a SimilarityGraph, "frame" for a DataFrame with the columns
                of `query`.

        Returns:
            A SimilarityGraph or a DataFrame.

        Raises:
            SettingsError: for a wrong argument.

        Example:
            >>> from imgsim_assets import ImageSimilarityModel
            >>> model = ImageSimilarityModel.create([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
            >>> model.similarity_graph(k=1).edges.rows()
            [(0, 1, 5.0, 1), (1, 2, 1.0, 1), (2, 1, 1.0, 1)]
        """
        from imgsim_assets.search.graph import SimilarityGraph
        from imgsim_assets.search.query import QUERY_LABEL, REFERENCE_LABEL, graph_frame

        if output_type not in ("graph", "frame"):
            raise SettingsError(f"output_type is {output_type!r}; use 'graph' or 'frame'")
        frame = graph_frame(self._references, k, radius, include_self_edges=include_self_edges)
        if output_type == "frame":
            return frame
        edges = frame.rename({QUERY_LABEL: "__src_id", REFERENCE_LABEL: "__dst_id"})
        return SimilarityGraph(self.labels.alias("__id").to_frame(), edges)

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
        """Write a self-contained HTML gallery of images beside their neighbors.

        The file works offline. It has a histogram of the distances, and filters by distance and
        label.

        Args:
            path: the HTML file.
            result: the result of `query`, or a part of it; default every item with its `k`
                nearest other items.
            queries: the dataset that was queried, for its images, or the model itself for a
                result of `similarity_graph`.
            label: the column of query labels, as in `query`.
            feature: the column of images, as in `query`.
            k: neighbors per item, if no result is given.
            download: the settings for fetching the URLs of queries.

        Returns:
            The path of the file.

        Raises:
            SettingsError: for a wrong argument, or when the file cannot be written.
        """
        from imgsim_assets.search import gallery
        from imgsim_assets.search.dataset import DatasetOptions, read_dataset

        images = gallery.images_by_label(self.labels, self._references.images)
        if result is None:
            result, queries = self.similarity_graph(k, output_type="frame"), self
        if queries is None:
            # The labels of the result may also be labels of other images, those of the model.
            raise SettingsError(
                "queries: give the dataset that was queried, or the model itself for its graph"
            )
        query_images = images
        if queries is not self:
            options = DatasetOptions(label, feature, download, argument="queries")
            dataset = read_dataset(queries, options)
            query_images = gallery.images_by_label(dataset.labels, dataset.optional_images)
        return gallery.write_result(path, result, query_images, images, title=repr(self))

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
        """Add reference items; only images that are not in the model are encoded.

        Args:
            dataset: any dataset of `create`, except the name of a catalog.
            label: the column of labels, of the same type as the model's; default integers that
                follow the largest label.
            feature: as in `create`.
            batch_size: as in `create`.
            progress: as in `create`.
            ignore_failure: as in `create`.
            download: as in `create`.

        Raises:
            SettingsError: for a wrong argument, or a label that exists or has another type. The
                model is unchanged.
            EncoderError: when the encoder cannot be loaded.
        """
        import polars as pl

        from imgsim_assets.search.dataset import DatasetOptions, read_dataset

        options = DatasetOptions(label, feature, download, progress, batch_size, ignore_failure)
        items = read_dataset(dataset, options)
        if label is None and self.labels.dtype == pl.Int64:
            items = replace(items, labels=self._references.next_labels(len(items)))
        self._append(items, options)

    def _append(self, items: Dataset, options: DatasetOptions) -> None:
        import polars as pl

        from imgsim_assets.search.failures import failures_frame
        from imgsim_assets.search.query import embed_dataset

        self._references.require_new_labels(items.labels)
        embeddings = embed_dataset(items, self._references, self._embedder, options)
        images = items.optional_images
        self._references = self._references.append(
            items.labels.gather(embeddings.positions),
            embeddings.vectors,
            embeddings.digests,
            [images[position] for position in embeddings.positions.tolist()],
        )
        if items.images is not None:
            fingerprint = self._embedder.fingerprint
            self._provenance = replace(self._provenance, fingerprint=fingerprint)
        new_failures = failures_frame(embeddings.failures, items.labels)
        self.failures = pl.concat([self.failures, new_failures])

    def remove(self, labels: Any) -> None:
        """Remove reference items.

        Args:
            labels: one label, or several.

        Raises:
            SettingsError: when there is no item with one of the labels. The model is unchanged.
        """
        is_single = isinstance(labels, str | int) or not hasattr(labels, "__iter__")
        self._references = self._references.remove([labels] if is_single else list(labels))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the model as a folder, replacing a model that is there.

        The folder has the vectors, the labels and the encoder's settings. It has neither the
        weights nor the images; images of files and of a store are read from there again.

        Args:
            path: the folder.

        Raises:
            SettingsError: when the path exists and is not a saved model.
        """
        from imgsim_assets.search.saved_model import write_model

        write_model(Path(path), self._references, self._embedder, self._provenance, self.failures)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | None = None,
        weights: str | None = None,
        factory: str | None = None,
    ) -> Self:
        """Load a saved model; see `load_model`."""
        from imgsim_assets.search.saved_model import read_model

        return cls(*read_model(Path(path), device, weights, factory))

    def export_onnx(self, path: str | os.PathLike[str], k: int = 5) -> Parity:
        """Write one ONNX file: prepared images in, labels and distances of the nearest out.

        The input and outputs are those of `imgsim_assets.search.export.export_onnx`, which needs
        the extra `onnx`.

        Args:
            path: the file.
            k: neighbors per image, from 1 to the number of items.

        Returns:
            How the results of the file compare with those of `query`.

        Raises:
            SettingsError: for a wrong argument, or when a package is missing.
            EncoderError: when the encoder cannot be exported, or the results differ.
        """
        from imgsim_assets.search.export import export_onnx

        return export_onnx(self._references, self._embedder, path, k)

    def __len__(self) -> int:
        return len(self._references)

    def __repr__(self) -> str:
        encoder = self._embedder.settings.describe()
        return f"ImageSimilarityModel({len(self)} items, {encoder}, {self.metric})"

    @property
    def metric(self) -> Metric:
        """How vectors are compared: "euclidean", or "cosine" for 1 - cosine."""
        return self._references.metric

    @property
    def labels(self) -> pl.Series:
        """The labels of the items (n,), Int64 or String, in the order they were added."""
        return self._references.labels

    @property
    def vectors(self) -> Floats:
        """A copy of the vectors of the items, (n, d) float32, in the order of the labels."""
        return self._references.vectors.copy()

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded on first use.

        Raises:
            EncoderError: when it cannot be loaded.
            StoreError: when it is not the encoder of the model's vectors.
        """
        return self._embedder.encoder

    def summary(self, output: Literal["str", "dict"] | None = None) -> Any:
        """Describe the model.

        Args:
            output: None to print the description, "str" or "dict" to return it.

        Returns:
            None, a str or a dict.

        Raises:
            SettingsError: for another `output`.
        """
        from imgsim_assets.search.summary import render_summary, summarize

        settings, failures = self._embedder.settings, self.failures.height
        summary = summarize(self._references, settings, self._provenance, failures)
        return render_summary(summary, output)


def load_model(
    path: str | os.PathLike[str],
    *,
    device: str | None = None,
    weights: str | None = None,
    factory: str | None = None,
) -> ImageSimilarityModel:
    """Load a model that `ImageSimilarityModel.save` wrote.

    Args:
        path: the folder.
        device: where to encode images; default the first GPU, else the CPU.
        weights: the path of the weights file on this machine. It must be the file that the
            model was created with; the first image that is encoded verifies it.
        factory: the factory of the model's encoder, as "package.module:function". The code that
            a model names runs only if it is given here.

    Returns:
        The model.

    Raises:
        StoreError: when there is no saved model, or one of another format.
        CorruptFileError: when a file was truncated or changed.
        SettingsError: for a wrong device or path of weights.
    """
    return ImageSimilarityModel.load(path, device=device, weights=weights, factory=factory)
