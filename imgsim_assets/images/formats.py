"""The format of a file by its first bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from imgsim_assets.images.errors import ImageError

# The formats that are decoded, by Pillow's names. Each further decoder is code that a hostile
# file may reach. HEIF is decoded where its extra is installed.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
HEIF = "HEIF"

_SIGNATURES: Mapping[bytes, str] = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
}
_PPM = re.compile(rb"P[0-6fy][\s#CR]")
# An icon or cursor, with at least one image.
_ICO = re.compile(rb"\0\0[\x01\x02]\0(?!\0\0)..", re.DOTALL)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
# What begins an image of a format that is not decoded, and its name.
_UNSUPPORTED: Mapping[bytes, str] = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"8BPS": "PSD (Photoshop)",
    b"II\xbc\x01": "JPEG XR",
    b"IIRO": "camera RAW (ORF)",
    b"IIRS": "camera RAW (ORF)",
    b"MMOR": "camera RAW (ORF)",
    b"IIU\0": "camera RAW (RW2)",
    b"FUJIFILMCCD-RAW": "camera RAW (RAF)",
    b"FOVb": "camera RAW (X3F)",
    b"\0MRM": "camera RAW (MRW)",
    b"icns": "ICNS",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"gimp xcf": "XCF (GIMP)",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"SIMPLE  =": "FITS",
    b"%!PS-Adobe": "EPS or PostScript",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"BPG\xfb": "BPG",
    b"FLIF": "FLIF",
    b"\x8aMNG\r\n\x1a\n": "MNG",
    b"\x8bJNG\r\n\x1a\n": "JNG",
    b"AT&TFORM": "DjVu",
    b"\x01\xda\x00\x01": "SGI",
    b"\x01\xda\x01\x01": "SGI",
    b"\xd7\xcd\xc6\x9a": "WMF",
    b"\xabKTX ": "KTX",
    b"/* XPM */": "XPM",
}
# The longest signature, and the largest ftyp box that is looked at.
SIGNATURE_BYTES = 64
_SVG = re.compile(rb"<(?:[a-z][\w.-]*:)?svg[\s>/]", re.IGNORECASE)
_PROLOG = re.compile(
    rb"\s*(?:<\?.*?\?>|<!--.*?-->|<!doctype\s[^\[>]*(?:\[.*?\]\s*)?>)", re.I | re.S
)
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|script|meta)\b", re.IGNORECASE)
_TEXT_BYTES = 4096


def image_format(data: bytes) -> str | None:
    """Pillow's name of the format that the first bytes of a file declare; None for others."""
    for length in (2, 4, 6, 8, 12):
        name = _SIGNATURES.get(data[:length])
        if name is not None:
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _format_of_brands(data)
    if _ICO.match(data):
        return "ICO"
    return "PPM" if _PPM.match(data) else None


def unsupported_format(data: bytes) -> str | None:
    """The name of an image format that is recognized but not decoded; None for others."""
    for signature, name in _UNSUPPORTED.items():
        if data.startswith(signature):
            return name
    if data[4:12] == b"ftypcrx ":
        return "camera RAW (CR3)"
    if data[6:14] == b"HEAPCCDR":
        return "camera RAW (CRW)"
    if data[40:44] == b" EMF":
        return "EMF"
    return "SVG" if _SVG.match(_first_element(data)) else None


def not_decodable(data: bytes) -> ImageError:
    """The error for a file without the signature of a format that is decoded."""
    name = unsupported_format(data)
    if name is not None:
        return ImageError("unsupported_format", name)
    text = _first_element(data)
    if _HTML.match(text):
        return ImageError("not_image", "an HTML page")
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:5].lower() == b"<?xml":
        return ImageError("not_image", "an XML document")
    return ImageError("not_image", f"not one of {', '.join(FORMATS)}")


def _format_of_brands(data: bytes) -> str | None:
    """The format of an ISO media file: by its major brand, else by the compatible ones."""
    major = data[8:12]
    if major in (b"avif", b"avis"):
        return "AVIF"
    if major not in _HEIF_BRANDS:
        return None
    end = min(int.from_bytes(data[:4], "big"), SIGNATURE_BYTES)
    brands = {data[at : at + 4] for at in range(16, end, 4)}
    return "AVIF" if brands & {b"avif", b"avis"} and b"heic" not in brands else HEIF


def _first_element(data: bytes) -> bytes:
    """A text from its first element on, without byte order mark, prolog and comments."""
    start = data[:_TEXT_BYTES].removeprefix(b"\xef\xbb\xbf")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        start = start.decode("utf-16", "replace").lstrip("\ufeff").encode()
    if _HTML.match(start.lstrip()):
        return start.lstrip()
    while (prolog := _PROLOG.match(start)) is not None:
        start = start[prolog.end() :]
    return start.lstrip()
