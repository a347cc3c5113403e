"""Asset checks that several assets declare, and check results in Dagster's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.markdown import escape_markdown
from imgsim_assets.pipeline.check_names import INDEX_IS_CURRENT, SIMILARITY_DRIFT
from imgsim_assets.pipeline.settings import CheckSettings, Severity

if TYPE_CHECKING:
    from imgsim_assets.pipeline.checks import CheckResult


def invariant_spec(
    key: dg.AssetKey, name: str, description: str, settings: CheckSettings
) -> dg.AssetCheckSpec:
    """A check that must hold: a failure stops downstream assets, unless it only warns."""
    return dg.AssetCheckSpec(
        name,
        asset=key,
        description=description,
        blocking=settings.invariant_severity == "error",
    )


def invariant_results(
    results: Mapping[str, CheckResult], settings: CheckSettings, *, key: dg.AssetKey | None = None
) -> list[dg.AssetCheckResult]:
    """Results of invariants as Dagster's."""
    severity = settings.invariant_severity
    return [asset_check(name, each, severity=severity, key=key) for name, each in results.items()]


def asset_check(
    name: str,
    result: CheckResult,
    *,
    severity: Severity = "error",
    key: dg.AssetKey | None = None,
) -> dg.AssetCheckResult:
    """A result as Dagster's; `key` is needed where a step materializes several assets."""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=result.passed,
        severity=dg.AssetCheckSeverity[severity.upper()],
        # It may name ids, and Dagster renders it.
        description=escape_markdown(result.problem) or None,
        metadata={field: _value(value) for field, value in result.metadata.items()},
    )


def _value(value: Any) -> Any:
    return dg.MetadataValue.json(value) if isinstance(value, list) else value


def drift_spec(key: dg.AssetKey, settings: CheckSettings) -> dg.AssetCheckSpec:
    """Similarities are distributed as in the last version."""
    return dg.AssetCheckSpec(
        SIMILARITY_DRIFT,
        asset=key,
        description="Similarities are distributed as in the last version: their cumulative "
        f"fractions differ by at most {settings.max_drift:.0%}.",
    )


def current_index_spec(key: dg.AssetKey, catalog: str) -> dg.AssetCheckSpec:
    """The index of a catalog holds the items of its embeddings."""
    return dg.AssetCheckSpec(
        INDEX_IS_CURRENT,
        asset=key,
        description=f"{catalog}/index holds exactly the items of {catalog}/embeddings.",
    )
