"""One clear message for each wrong value, where pydantic has several or says how it is built."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from imgsim_assets.pipeline.settings import (
    CatalogSettings,
    DuplicateGroupsSettings,
    MatchMatrixSettings,
)
from imgsim_assets.settings import Settings

_CATALOG = {"name": "products", "source": "products.csv"}
_PAIR = {"name": "pair", "left": "products", "right": "suppliers"}


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (MatchMatrixSettings, _PAIR | {"threshold": 1.5}, "1.5 is not a cosine; give -1 to 1"),
        (MatchMatrixSettings, _PAIR | {"threshold": "autoo"}, "'autoo' is not a cosine"),
        (MatchMatrixSettings, _PAIR | {"threshold": float("nan")}, "nan is not a cosine"),
        (CatalogSettings, _CATALOG | {"graph": {"threshold": True}}, "True is not a cosine"),
        (CatalogSettings, _CATALOG | {"evaluation": True}, "True is not a mapping; write '{}'"),
        (CatalogSettings, _CATALOG | {"checks": None}, "None is not a mapping"),
        (
            CatalogSettings,
            _CATALOG | {"evaluation": None},
            "write 'evaluation: {}' for the defaults",
        ),
        (CatalogSettings, _CATALOG | {"groups": None}, "write 'groups: {}' for the defaults"),
        (CatalogSettings, _CATALOG | {"owners": "team:x"}, "write one, such as [team:x]"),
        (DuplicateGroupsSettings, {"name": "all", "catalogs": "a"}, "'a' is not a list"),
        (DuplicateGroupsSettings, {"name": "all", "catalogs": ["a"]}, "two catalogs or more"),
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
def test_thresholds_are_cosines_or_auto_or_recommended(threshold: float | str | None) -> None:
    settings = MatchMatrixSettings.model_validate(_PAIR | {"threshold": threshold})

    assert settings.threshold == (0.9 if threshold == "0.9" else threshold)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"watch": "* * * * *"}, "it is now 'observe_schedule'"),
        ({"checks": {"max_drop": 0.5}}, "it is now 'max_removed_fraction'"),
        ({"download": {"allow_hosts": ["localhost"]}}, "it is now 'allowed_hosts'"),
        ({"index": {"probes": 3}}, "it is now 'nprobe'"),
    ],
)
def test_key_of_an_earlier_snapshot_names_the_present_key(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        CatalogSettings.model_validate(_CATALOG | settings)
