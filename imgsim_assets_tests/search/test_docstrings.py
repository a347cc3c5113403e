from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["num_gpus", "features", "gallery", "model"])
def test_examples_of_docstrings_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"imgsim_assets.search.{name}"))

    assert results.attempted > 0
    assert results.failed == 0
