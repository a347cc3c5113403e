"""ImageSimilarityModel: reference images that can be queried, as one Python object."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import DEFAULT_ENCODER, EncoderSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.text import counted

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.encoders.encoder import Encoder
    from imgsim_assets.gallery.document import Gallery
    from imgsim_assets.gallery.file import GalleryFile
    from imgsim_assets.search.dataset import Dataset
    from imgsim_assets.search.export import Parity
    from imgsim_assets.search.neighbors import Compare, Metric
    from imgsim_assets.search.parts import ModelParts
    from imgsim_assets.search.references import References
    from imgsim_assets.similarity.cosine import Floats
    from imgsim_assets.storage.store import Store


class ImageSimilarityModel:
    """Reference items with labels, a vector for each of their images, and an encoder.

    Create one with `create` or `load_model`.

    Example:
        >>> from imgsim_assets import ImageSimilarityModel
        >>> model = ImageSimilarityModel.create([[0.0, 0.0], [3.0, 4.0]])
        >>> model.query([0.0, 0.0], k=2).rows()
        [(0, 0, 0.0, 1), (0, 1, 5.0, 2)]
    """

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts

    @classmethod
    def create(
        cls,
        dataset: Any,
        label: str | None = None,
        feature: str | None = None,
        encoder: str | EncoderSettings | Mapping[str, Any] = DEFAULT_ENCODER,
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
            dataset: a Polars, pandas or Arrow table, or a list of dicts; a folder or glob; a list
                of PIL images, bytes, uint8 arrays, paths, URLs or vectors, or of lists of these,
                for items with several images; or the name of a catalog in the store, whose
                vectors are read, not computed (write `./name` for a folder of that name).
            label: the column of labels, integers or text; default row numbers from 0, and for a
                catalog its ids.
            feature: the column of images or vectors, or of lists of these; default the only
                candidate.
            encoder: the name of an encoder, or its settings; a catalog has its own.
            batch_size: images per forward pass; default by the device.
            progress: whether to print progress to stderr.
            metric: "euclidean", or "cosine" for 1 - cosine. Vectors of images have length 1;
                given vectors are compared as they are.
            ignore_failure: whether an image that cannot be used is omitted, with a warning and
                a row in `failures`; else it is an error. An item is omitted with its last image.
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
        from imgsim_assets.search.dataset import DatasetOptions
        from imgsim_assets.search.embedder import parse_encoder
        from imgsim_assets.search.parts import create_parts

        options = DatasetOptions(
            label, feature, download, progress, batch_size, ignore_failure, store=store
        )
        settings = parse_encoder(encoder)
        return cls(create_parts(dataset, options, settings, metric, device, weights, factory))

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
        compare: Compare = "any",
        orientations: bool = False,
        ignore_failure: bool = True,
        download: DownloadSettings | None = None,
        store: Store | str | Path | None = None,
    ) -> pl.DataFrame:
        """Find the reference items nearest to each image or vector of a dataset, or to texts.

        Args:
            dataset: any dataset of `create`, or a single image, path, URL or vector.
            label: the column of query labels; default row numbers from 0, and for a catalog its
                ids.
            k: the maximum number of neighbors, None for no limit.
            radius: the maximum distance, inclusive, None for no limit. With neither k nor
                radius, every query is paired with every item.
            progress: as in `create`.
            batch_size: as in `create`.
            text: a text, or several, instead of a dataset, for an encoder with a text tower (CLIP,
                SigLIP). The texts are the query labels. Texts are farther from images than images
                from each other, so that a radius for images does not suit texts.
            feature: as in `create`.
            compare: which images of items count: "any" takes the nearest pair; "first" compares
                only the first usable image of each item; "mean_best" takes the mean, over the
                query's images, of the cosine of the best reference image, and needs a radius.
            orientations: whether to search each image in its eight orientations (rotated by
                quarter turns and mirrored). The nearest one counts.
            ignore_failure: whether an image that cannot be used is omitted with a warning; else
                it is an error.
            download: as in `create`.
            store: the store of a catalog; default that of `create`.

        Returns:
            query_label, reference_label, distance (Float64) and rank (Int32, from 1), sorted by
            the order of the queries and rank; with `orientations` also orientation (String). An
            image of the model finds itself at distance 0. Of equally near items, the one that
            was added first is first. Items are compared by their nearest pair of images, whose
            numbers are in query_image and reference_image (Int32) where items of the queries, or
            of the model, have several.

        Raises:
            SettingsError: for a wrong argument; the message names it and the fix.
            EncoderError: when the encoder cannot be loaded.
        """
        from imgsim_assets.images.orientation import ORIENTATIONS
        from imgsim_assets.search.dataset import DatasetOptions
        from imgsim_assets.search.neighbors import SearchParams
        from imgsim_assets.search.notebook import remember_result
        from imgsim_assets.search.query import query_frame, text_frame
        from imgsim_assets.search.read_dataset import read_dataset

        references, embedder = self._parts.references, self._parts.embedder
        params = SearchParams(k, radius, compare)
        if text is not None:
            if dataset is not None or orientations:
                raise SettingsError("text: give either texts or a dataset of images, not both")
            return text_frame(text, references, embedder, params)
        if dataset is None:
            raise SettingsError("dataset: give images or vectors to search for, or text=...")
        store = self._parts.store if store is None else store
        options = DatasetOptions(
            label, feature, download, progress, batch_size, ignore_failure, store=store
        )
        queries = read_dataset(dataset, options)
        views = ORIENTATIONS if orientations else None
        result = query_frame(queries, references, embedder, params, options, views)
        if queries.images is not None:
            remember_result(result, lambda frame: self._gallery(frame, dataset, queries, label))
        return result

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
        from imgsim_assets.search.graph import EDGE_COLUMNS, SimilarityGraph
        from imgsim_assets.search.query import graph_frame

        if output_type not in ("graph", "frame"):
            raise SettingsError(f"output_type is {output_type!r}; use 'graph' or 'frame'")
        frame = graph_frame(
            self._parts.references, k, radius, include_self_edges=include_self_edges
        )
        if output_type == "frame":
            return frame
        edges = frame.rename(EDGE_COLUMNS, strict=False)
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
    ) -> GalleryFile:
        """Write an HTML gallery of images beside their neighbors.

        The page works offline. It has a histogram of the distances, filters by distance and other
        columns, and a search. With more than 2,000 pairs the images are in a folder beside it. A
        notebook shows the first rows of the returned file.

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
            The file.

        Raises:
            SettingsError: for a wrong argument, or when a file cannot be written.
        """
        from imgsim_assets.gallery.file import write_gallery_file
        from imgsim_assets.search.dataset import DatasetOptions
        from imgsim_assets.search.read_dataset import read_dataset

        if result is None:
            result, queries = self.similarity_graph(k, output_type="frame"), self
        if queries is None:
            # The labels of the result may also be labels of other images, those of the model.
            raise SettingsError(
                "queries: give the dataset that was queried, or the model itself for its graph"
            )
        if queries is self:
            return write_gallery_file(self._gallery(result, None, self._parts.references), path)
        options = DatasetOptions(
            label, feature, download, argument="queries", store=self._parts.store
        )
        items = read_dataset(queries, options)
        return write_gallery_file(self._gallery(result, queries, items, label), path)

    def _gallery(
        self,
        result: pl.DataFrame,
        queries: Any,
        items: Dataset | References,
        label: str | None = None,
    ) -> Gallery:
        from imgsim_assets.search.result_gallery import gallery_of_result

        return gallery_of_result(self._parts, result, queries, items, label=label, title=repr(self))

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
        store: Store | str | Path | None = None,
    ) -> None:
        """Add reference items; only images that are not in the model are encoded.

        Args:
            dataset: any dataset of `create`.
            label: the column of labels, of the same type as the model's; default integers that
                follow the largest label.
            feature: as in `create`.
            batch_size: as in `create`.
            progress: as in `create`.
            ignore_failure: as in `create`.
            download: as in `create`.
            store: the store of a catalog; default that of `create`.

        Raises:
            SettingsError: for a wrong argument, or a label that exists or has another type. The
                model is unchanged.
            EncoderError: when the encoder cannot be loaded.
        """
        from imgsim_assets.search.dataset import DatasetOptions

        store = self._parts.store if store is None else store
        options = DatasetOptions(
            label, feature, download, progress, batch_size, ignore_failure, store=store
        )
        self._parts = self._parts.add(dataset, options)

    def remove(self, labels: Any) -> None:
        """Remove reference items.

        Args:
            labels: one label, or several.

        Raises:
            SettingsError: when there is no item with one of the labels. The model is unchanged.
        """
        is_single = isinstance(labels, str | int) or not hasattr(labels, "__iter__")
        references = self._parts.references.remove([labels] if is_single else list(labels))
        self._parts = replace(self._parts, references=references)

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

        write_model(Path(path), self._parts)

    def export_onnx(self, path: str | os.PathLike[str], k: int = 5) -> Parity:
        """Write one ONNX file: prepared images in, labels and distances of the nearest out.

        The input and outputs are those of `imgsim_assets.search.export.export_onnx`, which needs
        the extra `onnx`.

        Args:
            path: the file.
            k: items per image, from 1 to the number of items.

        Returns:
            How the results of the file compare with those of `query`.

        Raises:
            SettingsError: for a wrong argument, or when a package is missing.
            EncoderError: when the encoder cannot be exported, or the results differ.
        """
        from imgsim_assets.search.export import export_onnx

        return export_onnx(self._parts.references, self._parts.embedder, path, k)

    def __len__(self) -> int:
        return len(self._parts.references)

    def __repr__(self) -> str:
        rows = self._parts.references.rows
        images = f"{counted(len(rows), 'image')}, " if rows.has_numbers else ""
        encoder = self._parts.embedder.settings.describe()
        return (
            f"ImageSimilarityModel({counted(len(self), 'item')}, {images}{encoder}, {self.metric})"
        )

    def _repr_html_(self) -> str:
        from imgsim_assets.search.result_gallery import first_thumbnails
        from imgsim_assets.search.summary import summary_html

        return summary_html(self.summary("dict"), first_thumbnails(self._parts.references))

    @property
    def metric(self) -> Metric:
        """How vectors are compared: "euclidean", or "cosine" for 1 - cosine."""
        return self._parts.references.metric

    @property
    def labels(self) -> pl.Series:
        """The labels of the items (n,), Int64 or String, in the order they were added."""
        return self._parts.references.labels

    @property
    def failures(self) -> pl.DataFrame:
        """label, image (its number), status and detail of every image that was omitted."""
        return self._parts.failures

    @property
    def entries(self) -> pl.DataFrame:
        """Label and image (its number, Int32) of each vector, by item, then by number."""
        return self._parts.references.entries

    @property
    def vectors(self) -> Floats:
        """A copy of the vectors, (n, d) float32, one for each row of `entries`."""
        return self._parts.references.vectors.copy()

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded on first use.

        Raises:
            EncoderError: when it cannot be loaded.
            StoreError: when it is not the encoder of the model's vectors.
        """
        return self._parts.embedder.encoder

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

        settings, failures = self._parts.embedder.settings, self.failures.height
        summary = summarize(self._parts.references, settings, self._parts.provenance, failures)
        return render_summary(summary, output)
