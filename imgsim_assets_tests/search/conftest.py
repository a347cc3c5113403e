from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from imgsim_assets_tests.support.model_datasets import write_image_folder


@pytest.fixture
def images(tmp_path: Path) -> pl.DataFrame:
    """Six images on disk: name, path, number."""
    folder = write_image_folder(tmp_path / "images", range(6))
    paths = sorted(map(str, folder.iterdir()))
    return pl.DataFrame({"name": list("abcdef"), "path": paths, "number": range(10, 16)})
