"""The vectors of images as a column, to be stored and given to `ImageSimilarityModel.create`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import DEFAULT_ENCODER, EncoderSettings
from imgsim_assets.errors import SettingsError

if TYPE_CHECKING:
    import polars as pl


def extract_features(
    images: Any,
    encoder: str | EncoderSettings | Mapping[str, Any] = DEFAULT_ENCODER,
    *,
    feature: str | None = None,
    normalize: bool = True,
    batch_size: int | None = None,
    download: DownloadSettings | None = None,
    ignore_failure: bool = True,
    progress: bool = True,
) -> pl.Series:
    """Compute the vectors of images.

    Args:
        images: any dataset of `ImageSimilarityModel.create`, except vectors.
        encoder: the name of an encoder, or its settings.
        feature: the column of images; default the only candidate.
        normalize: whether vectors get length 1; else they are as the encoder returns them.
        batch_size: images per forward pass; default by the device.
        download: the settings for fetching URLs.
        ignore_failure: whether an image without a vector is a null and a warning; else it is
            an error.
        progress: whether to print progress to stderr.

    Returns:
        A Series "features" of Array(Float32, d) with one row for each of `images`; of
        List(Array(Float32, d)) where `images` has lists of images.

    Raises:
        SettingsError: for a wrong argument, or when no image has a vector.
        EncoderError: when the encoder cannot be loaded.

    Example:
        >>> from PIL import Image
        >>> import imgsim_assets
        >>> image = Image.linear_gradient("L")
        >>> imgsim_assets.extract_features([image], "hog_color").dtype
        Array(Float32, shape=(772,))
    """
    import polars as pl

    from imgsim_assets.search.dataset import DatasetOptions
    from imgsim_assets.search.embedder import Embedder, parse_encoder
    from imgsim_assets.search.failures import report_failures
    from imgsim_assets.search.read_dataset import read_dataset

    options = DatasetOptions(None, feature, download, progress, argument="images")
    dataset = read_dataset(images, options)
    if dataset.images is None:
        raise SettingsError("images: these are already vectors; give images")
    settings = parse_encoder(encoder)
    embedder = Embedder(
        settings, normalize=normalize, factory=settings.factory, weights=settings.weights
    )
    embeddings = embedder.embed(dataset.images, batch_size=batch_size, log=options.log)
    report_failures(embeddings.failures, dataset.rows, "images", ignore_failure=ignore_failure)
    vectors: list[Any] = [None] * len(dataset.rows)
    for position, vector in zip(embeddings.positions.tolist(), embeddings.vectors, strict=True):
        vectors[position] = vector.tolist()
    dtype = pl.Array(pl.Float32, embeddings.vectors.shape[1])
    if not dataset.has_lists:
        return pl.Series("features", vectors, dtype=dtype)
    lists: list[list[Any]] = [[] for _ in range(len(dataset))]
    for item, vector in zip(dataset.rows.item.tolist(), vectors, strict=True):
        lists[item].append(vector)
    return pl.Series("features", lists, dtype=pl.List(dtype))
