"""One clear message for each wrong value, where pydantic has several or says how it is built."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from imgsim_assets.components.catalogue_settings import (
    CatalogueSettings,
    DuplicateGroupsSettings,
    MatchMatrixSettings,
)
from imgsim_assets.settings import Settings

_CATALOGUE = {"name": "products", "source": "products.csv"}
_PAIR = {"name": "pair", "left": "products", "right": "suppliers"}


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (MatchMatrixSettings, _PAIR | {"threshold": 1.5}, "1.5 is no cosine; give a number"),
        (MatchMatrixSettings, _PAIR | {"threshold": "autoo"}, "'autoo' is no cosine"),
        (MatchMatrixSettings, _PAIR | {"threshold": float("nan")}, "nan is no cosine"),
        (CatalogueSettings, _CATALOGUE | {"graph": {"threshold": True}}, "True is no cosine"),
        (CatalogueSettings, _CATALOGUE | {"report": True}, "True is no group of keys; write '{}'"),
        (CatalogueSettings, _CATALOGUE | {"checks": None}, "None is no group of keys"),
        (CatalogueSettings, _CATALOGUE | {"report": None}, "write 'report: {}' for the defaults"),
        (CatalogueSettings, _CATALOGUE | {"groups": None}, "write 'groups: {}' for the defaults"),
        (CatalogueSettings, _CATALOGUE | {"owners": "team:x"}, "write one, such as [team:x]"),
        (DuplicateGroupsSettings, {"name": "all", "catalogues": "a"}, "'a' is no list"),
        (DuplicateGroupsSettings, {"name": "all", "catalogues": ["a"]}, "two catalogues or more"),
    ],
)
def test_a_wrong_value_has_one_message(
    kind: type[Settings], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        kind.model_validate(values)

    (error,) = raised.value.errors()
    assert message in error["msg"]


@pytest.mark.parametrize("threshold", [-1, 0.9, "0.9", 1, "auto", None])
def test_thresholds_are_cosines_or_auto(threshold: float | str | None) -> None:
    settings = MatchMatrixSettings.model_validate(_PAIR | {"threshold": threshold})

    assert settings.threshold == (0.9 if threshold == "0.9" else threshold)
