"""Images that a list holds itself: bytes in Parquet, and data URIs.

They are named by the sha256 of their bytes, `sha256:<hex>`, in place of a URL.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from urllib.parse import unquote_to_bytes

import polars as pl

from imgsim_assets.catalog.locations import EMBEDDED, is_location

# Keeps the bytes of an image, and returns its sha256 (hex).
KeepImage = Callable[[bytes], str]
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM|II\*\0|MM\0\*|....ftyp|\0\0\0\x0cjP|\xff\x0a",
    re.DOTALL,
)
_SAMPLE_ROWS = 100
_ROW = "__row"


def sha256_of(image: bytes) -> str:
    """The sha256 of an image that is not kept."""
    return hashlib.sha256(image).hexdigest()


def data_uri_bytes(uri: str) -> bytes:
    """The bytes of a data URI.

    Raises:
        ValueError: it has no data, or is not base64.
    """
    header, comma, data = uri.partition(",")
    if not comma or not data:
        raise ValueError("the data URI has no data")
    body = unquote_to_bytes(data)
    if header.lower().rstrip().endswith(";base64"):
        try:
            compact = b"".join(body.split()).translate(bytes.maketrans(b"-_", b"+/"))
            return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
        except binascii.Error as error:
            raise ValueError(f"the data URI is not base64: {error}") from error
    return body


def extract_images(rows: pl.DataFrame, keep: KeepImage) -> tuple[pl.DataFrame, set[str]]:
    """Columns of URLs in bytes as text, and columns of images as `sha256:<hex>`, with their names.

    Images are bytes, or structs of bytes and a path as Hugging Face writes them; the path becomes
    the column `<name>_path`, and stands for the image where there are no bytes. Lists of them
    become lists of text.
    """
    embedded: set[str] = set()
    for name, dtype in rows.schema.items():
        if isinstance(dtype, pl.List | pl.Array) and _may_be_image(dtype.inner):
            lists, found = _extract_lists(rows[name], keep)
            rows = rows.with_columns(lists)
            embedded |= found
        elif isinstance(dtype, pl.Struct) and pl.Field("bytes", pl.Binary) in dtype.fields:
            rows = _extract_struct(rows, name, keep)
            embedded.add(name)
        elif dtype == pl.Binary:
            sample = rows[name].drop_nulls().head(_SAMPLE_ROWS).to_list()
            if sample and all(_SIGNATURES.match(value) for value in sample):
                rows = rows.with_columns(_kept(rows[name], keep))
                embedded.add(name)
            elif _are_locations(sample):
                rows = rows.with_columns(_decoded(rows[name]))
    return rows, embedded


def _may_be_image(dtype: object) -> bool:
    is_struct = isinstance(dtype, pl.Struct) and pl.Field("bytes", pl.Binary) in dtype.fields
    return is_struct or dtype == pl.Binary


def _extract_lists(lists: pl.Series, keep: KeepImage) -> tuple[pl.Series, set[str]]:
    name = lists.name
    numbered = lists.to_frame().with_row_index(_ROW)
    cells = numbered.explode(name)
    images, embedded = extract_images(cells.select(name), keep)
    by_row = cells.select(_ROW).hstack([images[name]]).group_by(_ROW, maintain_order=True).agg(name)
    # Empty lists have no row of their own.
    completed = numbered.select(_ROW).join(by_row, on=_ROW, how="left", maintain_order="left")
    return completed[name], embedded


def _are_locations(sample: Sequence[bytes]) -> bool:
    return 2 * sum(is_location(value.decode(errors="replace")) for value in sample) > len(sample)


def _decoded(values: pl.Series) -> pl.Series:
    texts = [None if each is None else each.decode(errors="replace") for each in values]
    return pl.Series(values.name, texts, pl.String)


def _extract_struct(rows: pl.DataFrame, name: str, keep: KeepImage) -> pl.DataFrame:
    fields = rows[name].struct.unnest()
    images = _kept(fields["bytes"].alias(name), keep)
    if "path" not in fields.columns or fields["path"].dtype != pl.String:
        return rows.with_columns(images)
    path = f"{name}_path"
    while path in rows.columns:
        path = f"{path}_2"
    return rows.with_columns(
        images.zip_with(images.is_not_null(), fields["path"].alias(name)),
        fields["path"].alias(path),
    )


def _kept(images: pl.Series, keep: KeepImage) -> pl.Series:
    names = [f"{EMBEDDED}{keep(image)}" if image else None for image in images]
    return pl.Series(images.name, names, pl.String)
