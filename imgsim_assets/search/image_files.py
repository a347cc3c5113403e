"""The image files of a folder or glob, local or on fsspec."""

from __future__ import annotations

from functools import partial
from os import PathLike
from pathlib import Path

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import Source, open_source
from imgsim_assets.catalog.source_files import SourceFile
from imgsim_assets.errors import SettingsError
from imgsim_assets.search.image_ref import ImageRef
from imgsim_assets.search.url_images import is_url


def local_path(path: str | PathLike[str]) -> Path:
    """The path of a file; one in a home that nothing knows is that of a missing file."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_folder_or_glob(text: str) -> bool:
    """Whether text names several files."""
    is_glob = any(character in text for character in "*?[")
    return not is_url(text) and (is_glob or local_path(text).is_dir())


def list_image_files(location: str, argument: str, *, recursive: bool = True) -> list[ImageRef]:
    """The images of a folder or glob, local or on fsspec, sorted by path; the path is the name.

    Hidden files and files without the suffix of an image are ignored.

    Raises:
        SourceError: when there is no such folder.
        SettingsError: when it holds no image.
    """
    source = open_source(SourceSettings(path=location, format="images"), Path.cwd())
    files = [file for file in source.files if recursive or "/" not in file.name]
    if not files:
        raise SettingsError(f"{argument}: {location} holds no images; name a folder that does")
    return [ImageRef(file.path, partial(_read_source_file, source, file)) for file in files]


def _read_source_file(source: Source, file: SourceFile) -> bytes:
    with source.fs.open(file.path, "rb") as opened:
        data: bytes = opened.read()
        return data
