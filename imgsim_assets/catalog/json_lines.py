"""JSON: a line or a document to objects, and objects to columns of one type each."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from imgsim_assets.catalog.raw_rows import unique_names

_MAX_INT64 = 2**63 - 1
# How deep the array of a document may be: {"data": {"products": [...]}}.
_MAX_DEPTH = 3


def parse_object(line: str) -> Mapping[str, Any]:
    """Parse a line; a ValueError says why the line is not a JSON object."""
    document = _parse(line)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document


def parse_array(text: str) -> list[Any]:
    """The rows of a document: its array, or the only array of objects below it.

    An array of text is a list of images. A ValueError says why the document has no rows.
    """
    document = _parse(text)
    if not isinstance(document, list):
        arrays = dict(_arrays(document, "", _MAX_DEPTH))
        if len(arrays) > 1:
            raise ValueError(f"several arrays of objects: {', '.join(arrays)}; keep one of them")
        if not arrays and isinstance(document, dict) and not _has_objects(document):
            return [document]  # a list of one item
        if not arrays:
            raise ValueError("no array of objects; write one object for each image")
        (document,) = arrays.values()
    return [{"url": each} if isinstance(each, str) else each for each in document]


def _arrays(document: Any, path: str, depth: int) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(document, dict) and depth:
        for key, value in document.items():
            yield from _arrays(value, f"{path}.{key}" if path else key, depth - 1)
    elif isinstance(document, list) and document and isinstance(document[0], dict):
        yield path, document


def _has_objects(document: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict | list) for value in document.values())


def _parse(text: str) -> Any:
    try:
        document = json.loads(text)
        if "\\u" in text:
            # An escape may be an unpaired surrogate, which no table can hold.
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeError:
        raise ValueError("an escape is not a valid character") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    return document


def object_columns(
    documents: Sequence[Mapping[str, Any]], text_keys: Collection[str | None]
) -> dict[str, Sequence[Any]]:
    """The keys of all objects as columns; those of `text_keys` are always text."""
    keys = list(dict.fromkeys(key for document in documents for key in document))
    columns: dict[str, Sequence[Any]] = {}
    for key, column in zip(keys, unique_names(keys), strict=True):
        values = [document.get(key) for document in documents]
        if key in text_keys:
            columns[column] = [_key_text(value) for value in values]
        else:
            columns[column] = _uniform_values(values)
    return columns


def _key_text(value: Any) -> str | None:
    """A value as text that does not depend on the other values of its column."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return _json_text(value)


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True)


def _uniform_values(values: Sequence[Any]) -> Sequence[Any]:
    """The values unchanged if all have one scalar type that a column can hold, else as text."""
    types = {type(value) for value in values if value is not None}
    fits = all(abs(value) <= _MAX_INT64 for value in values if type(value) is int)
    if len(types) <= 1 and types <= {str, bool, int, float} and fits:
        return values
    if types == {int, float} and fits:
        return [None if value is None else float(value) for value in values]
    return [_json_text(value) for value in values]
