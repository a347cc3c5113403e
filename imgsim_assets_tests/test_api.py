"""The package as a user imports it."""

from __future__ import annotations

from importlib.metadata import version

import pytest

import imgsim_assets
from imgsim_assets.errors import SettingsError
from imgsim_assets_tests.support.fresh_python import printed_lines

# Dagster loads every name that `dir` lists when it searches the package for components.
_HEAVY = {"aiohttp", "faiss", "numpy", "PIL", "polars", "scipy", "torch", "torchvision"}


def test_dir_lists_the_public_api() -> None:
    assert set(imgsim_assets.__all__) <= set(dir(imgsim_assets))


def test_loading_the_public_api_imports_no_heavy_library() -> None:
    loaded = printed_lines(
        "import sys, imgsim_assets\n"
        "for name in dir(imgsim_assets): getattr(imgsim_assets, name)\n"
        "print(*sys.modules, sep='\\n')"
    )

    assert _HEAVY & set(loaded) == set()


def test_version_is_that_of_the_distribution() -> None:
    assert imgsim_assets.__version__ == version("imgsim_assets")


@pytest.mark.parametrize(
    ("former", "present"),
    [("ImageCatalogue", "ImageCatalogComponent"), ("GarbageCollection", "RetentionComponent")],
)
def test_component_type_of_an_earlier_snapshot_names_the_present_type(
    former: str, present: str
) -> None:
    with pytest.raises(SettingsError, match=f"{former} is now imgsim_assets.{present}"):
        getattr(imgsim_assets, former)
