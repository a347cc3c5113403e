"""Loading the images of a folder, a glob or a list of URLs into a frame."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
from PIL import Image

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.header import ImageError
from imgsim_assets.search.dataset import is_url, list_image_files
from imgsim_assets.search.features import Failure, log_to, report_failures
from imgsim_assets.search.url_images import fetch_urls

_READERS = 4


def load_images(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    recursive: bool = True,
    ignore_failure: bool = True,
    download: DownloadSettings | None = None,
    progress: bool = True,
) -> pl.DataFrame:
    """The images of a folder or glob (local or behind fsspec), or of a list of paths and URLs.

    Every image is decoded once here, so that none that is returned fails later on.

    Args:
        source: where they are. A folder's images come sorted by path; hidden files and those
            without the suffix of an image are passed over. A list keeps its order.
        recursive: whether folders inside a folder are looked through.
        ignore_failure: whether what is no image is left out with a warning, or an error.
        download: manners and limits of fetching, for URLs.
        progress: whether fetching says on stderr how it is getting on.

    Returns:
        path (String) and image (Binary, the file's bytes): as small in memory as the files, and
        written with its images by `write_parquet`.

    Raises:
        SourceError: when there is no such folder.
        SettingsError: when there is no image at all, or, without ignore_failure, a bad one.
    """
    loads = _loads(source, recursive, download or DownloadSettings(), progress)
    with ThreadPoolExecutor(_READERS, "read") as pool:
        read = list(pool.map(_checked, [load for _, load in loads]))
    failures = [
        Failure(position, loads[position][0], problem.status, problem.detail)
        for position, problem in enumerate(read)
        if isinstance(problem, ImageError)
    ]
    report_failures(failures, len(loads), "source", ignore_failure=ignore_failure)
    good = [
        (path, data) for (path, _), data in zip(loads, read, strict=True) if isinstance(data, bytes)
    ]
    return pl.DataFrame(good, schema={"path": pl.String, "image": pl.Binary}, orient="row")


def _loads(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    recursive: bool,
    download: DownloadSettings,
    progress: bool,
) -> list[tuple[str, Callable[[], bytes | Image.Image]]]:
    if isinstance(source, str | os.PathLike) and not is_url(os.fspath(source)):
        found = list_image_files(os.fspath(source), "source", recursive=recursive)
        return [(path, load) for path, load in found]
    names = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not names:
        raise SettingsError("source is empty; give a folder, a glob, or at least one path or URL")
    texts = [os.fspath(name) for name in names]
    by_url = fetch_urls([text for text in texts if is_url(text)], download, log=log_to(progress))
    return [
        (text, by_url[text].load if is_url(text) else Path(text).expanduser().read_bytes)
        for text in texts
    ]


def _checked(load: Callable[[], bytes | Image.Image]) -> bytes | ImageError:
    """An image's bytes when they can be decoded, else why not."""
    try:
        data = load()
        if not isinstance(data, bytes):
            raise AssertionError("files and URLs give bytes")
        decode(data)
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError("unreadable_file", str(error))
    return data
