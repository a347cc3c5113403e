"""JSON lines: a line to an object, and objects to columns of one type each."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from imgsim_assets.catalog.raw_rows import unique_names

_MAX_INT64 = 2**63 - 1


def parse_object(line: str) -> Mapping[str, Any]:
    """Parse a line; a ValueError says why the line is not a JSON object."""
    try:
        document = json.loads(line)
        if "\\u" in line:
            # An escape may be an unpaired surrogate, which no table can hold.
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeError:
        raise ValueError("an escape is not a valid character") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
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
