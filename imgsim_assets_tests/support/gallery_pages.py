"""What a gallery's page holds, read from its HTML."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class GalleryPage:
    """The text of a page, and its data."""

    text: str

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> GalleryPage:
        return cls(Path(path).read_text("utf-8"))

    @cached_property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self._json("gallery-data")
        return data

    @cached_property
    def images(self) -> list[str]:
        images: list[str] = self._json("gallery-images")
        return images

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, with the columns of each side, and the number of each side's image."""
        rows = []
        for position in range(self.data["count"]):
            row = {name: values[position] for name, values in self.data["rows"].items()}
            for side, numbers in self.data["thumbnails"].items():
                row[f"{side} thumbnail"] = numbers[position]
            for side, details in self.data["details"].items():
                at = details["positions"][position]
                columns = details["columns"].items()
                row[side] = None if at is None else {name: each[at] for name, each in columns}
            rows.append(row)
        return rows

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    def _json(self, name: str) -> Any:
        found = re.search(
            rf'<script type="application/json" id="{name}">(.*?)</script>', self.text, re.DOTALL
        )
        assert found is not None
        return json.loads(found[1])
