from __future__ import annotations

import pytest

import imgsim_assets
from imgsim_assets import similarity
from imgsim_assets.lazy import lazy_getattr


@pytest.mark.parametrize("package", [imgsim_assets, similarity])
def test_every_public_name_of_a_package_exists(package: object) -> None:
    assert [name for name in package.__all__ if not hasattr(package, name)] == []  # type: ignore[attr-defined]


def test_an_unknown_name_raises_attribute_error() -> None:
    load = lazy_getattr("imgsim_assets.similarity", {"top_k": "join"})

    assert load("top_k") is similarity.top_k
    with pytest.raises(
        AttributeError, match=r"'imgsim_assets\.similarity' has no attribute 'top_l'"
    ):
        load("top_l")
