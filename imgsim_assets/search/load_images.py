"""Loads the images of a folder, a glob or a list of paths and URLs into a DataFrame."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import SettingsError

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.images.errors import ImageError
    from imgsim_assets.search.dataset import DatasetOptions
    from imgsim_assets.search.image_ref import ImageRef


_THREADS = 4


def load_images(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    recursive: bool = True,
    ignore_failure: bool = True,
    download: DownloadSettings | None = None,
    progress: bool = True,
) -> pl.DataFrame:
    """Load the images of a folder, a glob, or a list of paths and URLs.

    Every image is decoded once, so that a returned image does not fail later.

    Args:
        source: a folder or glob (local or on fsspec), or paths and URLs. The images of a folder
            are sorted by path; hidden files and files without the suffix of an image are
            ignored. A list keeps its order.
        recursive: whether to include the folders inside a folder.
        ignore_failure: whether an invalid image is omitted with a warning; else it is an error.
        download: the settings for fetching URLs.
        progress: whether to print progress to stderr.

    Returns:
        A DataFrame with the columns path (String) and image (Binary, the bytes of the file).

    Raises:
        SourceError: when there is no such folder.
        SettingsError: when there is no image, or an invalid one without `ignore_failure`.
    """
    import polars as pl

    from imgsim_assets.images.errors import ImageError
    from imgsim_assets.search.dataset import DatasetOptions
    from imgsim_assets.search.failures import Failure, report_failures
    from imgsim_assets.search.item_rows import ItemRows

    options = DatasetOptions(download=download, progress=progress, argument="source")
    images = _image_refs(source, recursive, options)
    with ThreadPoolExecutor(_THREADS, "read") as pool:
        results = list(pool.map(_read_valid, images))
    failures = [
        Failure(position, images[position].name, result.status, result.detail)
        for position, result in enumerate(results)
        if isinstance(result, ImageError)
    ]
    report_failures(failures, ItemRows.single(len(images)), "source", ignore_failure=ignore_failure)
    rows = [
        (image.name, result)
        for image, result in zip(images, results, strict=True)
        if isinstance(result, bytes)
    ]
    return pl.DataFrame(rows, schema={"path": pl.String, "image": pl.Binary}, orient="row")


def _image_refs(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    recursive: bool,
    options: DatasetOptions,
) -> list[ImageRef]:
    from imgsim_assets.search.image_files import list_image_files, local_path
    from imgsim_assets.search.image_ref import ImageRef
    from imgsim_assets.search.url_images import fetch_urls, is_url

    if isinstance(source, str | os.PathLike) and not is_url(os.fspath(source)):
        return list_image_files(os.fspath(source), options.argument, recursive=recursive)
    names = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not names:
        raise SettingsError("source is empty; give a folder, a glob, or at least one path or URL")
    texts = [os.fspath(name) for name in names]
    urls = [text for text in texts if is_url(text)]
    by_url = fetch_urls(urls, options.download or DownloadSettings(), log=options.log)
    return [
        by_url[text] if is_url(text) else ImageRef(text, local_path(text).read_bytes)
        for text in texts
    ]


def _read_valid(image: ImageRef) -> bytes | ImageError:
    """The bytes of an image that can be decoded, else the error."""
    from imgsim_assets.images.decode import decode
    from imgsim_assets.images.errors import ImageError

    try:
        data = image.open()
        if not isinstance(data, bytes):
            raise AssertionError("files and URLs give bytes")
        decode(data)
    except ImageError as error:
        return error
    return data
