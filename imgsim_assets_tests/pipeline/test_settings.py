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
        (
            CatalogSettings,
            _CATALOG | {"groups": {"canonical": "biggest"}},
            "'biggest' is not a choice; write 'largest_resolution', 'largest_file' or 'first_seen'",
        ),
        (CatalogSettings, _CATALOG | {"groups": {"canonical": []}}, "the list is empty"),
        (
            MatchMatrixSettings,
            _PAIR | {"threshold": 0.9, "evidence": {"require": "same_bytes"}},
            "threshold: with 'require: same_bytes' only the evidence decides; remove it, or set "
            "'require: similar'",
        ),
        (
            MatchMatrixSettings,
            _PAIR | {"false_matches": "1%", "evidence": {"compute": True}},
            "false_matches: with 'require: aligned' only the evidence decides",
        ),
        (
            MatchMatrixSettings,
            _PAIR | {"threshold": 0.9, "false_matches": "1%"},
            "false_matches: only a measured threshold has it; remove it, or set 'threshold: auto'",
        ),
        (
            CatalogSettings,
            _CATALOG | {"graph": {"false_matches": "1%"}},
            "false_matches: only a measured threshold has it",
        ),
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


@pytest.mark.parametrize(
    ("evidence", "is_computed"),
    [
        ({}, False),
        ({"compute": True}, True),
        ({"require": "same_bytes"}, True),
        ({"min_similarity": 0.4}, True),
        ({"compute": False, "require": "aligned"}, False),
    ],
)
def test_any_key_of_evidence_turns_it_on(evidence: dict[str, Any], is_computed: bool) -> None:
    settings = MatchMatrixSettings.model_validate(_PAIR | {"evidence": evidence})

    assert settings.evidence.compute is is_computed
