"""JSON files that carry their own checksum.

The last key of the document, `checksum`, is the sha256 of every byte before it. The check covers
the bytes of the file, not the values in it: a changed blank is found as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

CHECKSUM = "checksum"
_TAIL = ',\n "checksum": "{}"\n}}\n'
_TAIL_BYTES = len(_TAIL.format("0" * 64))


def seal(document: Mapping[str, Any]) -> bytes:
    """A document, with one key or more, as a JSON file that ends with its checksum."""
    body = json.dumps(document, indent=1, sort_keys=True).encode().removesuffix(b"\n}")
    return body + _tail(body)


def is_sealed(data: bytes) -> bool:
    """Whether the checksum at the end of a file is that of its other bytes."""
    return data[-_TAIL_BYTES:] == _tail(data[:-_TAIL_BYTES])


def _tail(body: bytes) -> bytes:
    return _TAIL.format(hashlib.sha256(body).hexdigest()).encode()
