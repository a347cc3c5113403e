"""The images of a folder or glob: which files are rows, and what is said about the others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from imgsim_assets.catalog.formats import suffix
from imgsim_assets.catalog.locations import IMAGE_SUFFIXES
from imgsim_assets.images.formats import SIGNATURE_BYTES, image_format, unsupported_format

Info = Mapping[str, Any]
# Suffixes of further image formats. Files that cannot be decoded are rows with a status.
_OTHER_FORMATS = (
    "3fr apng arw avifs bpg cr2 cr3 crw cur dcr dds dib djvu dng emf eps erf exr fits heics icns "
    "ico j2c j2k jng jpc jpf jpx jxl jxr kdc mng mrw nef nrw orf pbm pcx pef pfm pgm pnm ppm psb "
    "psd qoi raf rw2 rwl sr2 srf srw svg svgz tga wdp wmf x3f xcf"
)
_SUFFIXES = IMAGE_SUFFIXES | {f".{name}" for name in _OTHER_FORMATS.split()}
# Formats that a text may begin like.
_VAGUE_SIGNATURES = frozenset({"BMP", "PPM", "SVG"})
_MAX_KINDS = 4


@dataclass
class ImageListing:
    """The images that were found, and counts of the other files."""

    images: list[Info] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    links: int = 0

    def notices(self) -> list[str]:
        """One notice about the files that are no rows; none where all are."""
        parts = []
        if self.others:
            kinds = [f"{count} {kind}" for kind, count in self.others.most_common(_MAX_KINDS)]
            more = ", ..." if len(self.others) > _MAX_KINDS else ""
            parts.append(f"{self.others.total()} other files ({', '.join(kinds)}{more})")
        if self.hidden:
            parts.append(f"{self.hidden} hidden files")
        if self.links:
            parts.append(f"{self.links} links to files that are listed, or to folders")
        return [f"not read as images: {', '.join(parts)}"] if parts else []


def list_images(listing: Iterable[Info], folder: str, *, read_signatures: bool) -> ImageListing:
    """Choose the images of a listing of an fsspec filesystem.

    A file is an image by its suffix or, with `read_signatures`, by its first bytes. One file is
    one image, whatever its names: of hard links the first is listed, and of a symbolic link its
    file, unless that is not in the listing.

    Args:
        listing: the infos of files.
        folder: where their paths begin; a part behind it that starts with a dot is hidden.
        read_signatures: whether to open local files without the suffix of an image.
    """
    found = ImageListing()
    links: list[Info] = []
    inodes: set[tuple[int, int]] = set()
    for info in sorted(listing, key=lambda info: str(info["name"])):
        if is_hidden(info, folder):
            found.hidden += 1
        elif info.get("islink"):
            links.append(info)
        elif _is_image(info, read_signatures):
            if info.get("nlink", 1) > 1 and _is_repeated(info, inodes):
                found.links += 1
            else:
                found.images.append(info)
        else:
            found.others[suffix(info["name"]).lstrip(".") or "without suffix"] += 1
    if links:
        _add_links(found, links, inodes)
    return found


def is_hidden(info: Info, folder: str) -> bool:
    """Whether a part of the path below the folder starts with a dot.

    That includes thumbnails, trash and resource forks of operating systems.
    """
    relative = str(info["name"]).removeprefix(folder)
    return any(part.startswith(".") for part in relative.split("/"))


def _add_links(found: ImageListing, links: Iterable[Info], inodes: set[tuple[int, int]]) -> None:
    """Add the symbolic links whose files are not listed; a broken one is a row with a status."""
    for info in found.images:
        _is_repeated(info, inodes)
    for info in links:
        if os.path.isdir(info["name"]) or (  # noqa: PTH112 - of a string that fsspec returned
            os.path.exists(info["name"]) and _is_repeated(info, inodes)  # noqa: PTH110
        ):
            found.links += 1
        elif suffix(info["name"]) in _SUFFIXES:
            found.images.append(info)
        else:
            found.others[suffix(info["name"]).lstrip(".") or "without suffix"] += 1


def _is_repeated(info: Info, inodes: set[tuple[int, int]]) -> bool:
    """Whether a file was seen under another name; it is seen from now on."""
    try:
        status = os.stat(info["name"])
    except OSError:  # deleted since the listing
        return False
    key = (status.st_dev, status.st_ino)
    is_repeated = key in inodes
    inodes.add(key)
    return is_repeated


def _is_image(info: Info, read_signatures: bool) -> bool:
    if suffix(info["name"]) in _SUFFIXES:
        return True
    if not read_signatures or info.get("type") != "file":
        return False
    try:
        with open(info["name"], "rb") as file:
            start = file.read(SIGNATURE_BYTES)
    except OSError:
        return False
    name = image_format(start) or unsupported_format(start)
    return name is not None and name not in _VAGUE_SIGNATURES
