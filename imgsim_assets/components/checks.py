"""Asset checks that several assets declare, and check results in Dagster's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.markdown import escape_markdown
from imgsim_assets.pipeline.check_names import INDEX_IS_CURRENT, RECALL, SIMILARITY_DRIFT
from imgsim_assets.pipeline.settings import CheckSettings, Severity
from imgsim_assets.similarity.settings import APPROXIMATE, PairSettings

if TYPE_CHECKING:
    from imgsim_assets.pipeline.check_result import CheckResult
    from imgsim_assets.storage.commit import Commit


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
    results: Mapping[str, CheckResult],
    settings: CheckSettings,
    *,
    key: dg.AssetKey | None = None,
    hint: str | None = None,
) -> list[dg.AssetCheckResult]:
    """Results of invariants as Dagster's; `key` and `hint` are as of `asset_check`."""
    severity = settings.invariant_severity
    return [
        asset_check(name, each, severity=severity, key=key, hint=hint)
        for name, each in results.items()
    ]


def asset_check(
    name: str,
    result: CheckResult,
    *,
    severity: Severity = "error",
    key: dg.AssetKey | None = None,
    hint: str | None = None,
) -> dg.AssetCheckResult:
    """A result as Dagster's.

    Args:
        name: of the check.
        result: whether it holds.
        severity: of a failure.
        key: of the asset; needed where a step materializes several.
        hint: what is worth to know although the check passes.
    """
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=result.passed,
        severity=dg.AssetCheckSeverity[severity.upper()],
        # It may name ids, and Dagster renders it.
        description=escape_markdown(result.problem or hint or "") or None,
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


def recall_specs(
    key: dg.AssetKey, settings: PairSettings, limits: CheckSettings
) -> list[dg.AssetCheckSpec]:
    """An approximate result holds enough of the pairs of an exact one; none for exact results."""
    if settings.method != APPROXIMATE:
        return []
    return [
        dg.AssetCheckSpec(
            RECALL,
            asset=key,
            description=f"At least {settings.min_recall:.1%} of the pairs of an exact computation "
            "are found, as measured on a sample.",
            blocking=limits.severity == "error",
        )
    ]


def recall_results(
    commit: Commit, settings: PairSettings, limits: CheckSettings
) -> list[dg.AssetCheckResult]:
    """The result of the check of `recall_specs`."""
    from imgsim_assets.pipeline.checks import result_recall

    if settings.method != APPROXIMATE:
        return []
    return [asset_check(RECALL, result_recall(commit), severity=limits.severity)]


def current_index_spec(key: dg.AssetKey, catalog: str) -> dg.AssetCheckSpec:
    """The index of a catalog holds the items of its embeddings."""
    return dg.AssetCheckSpec(
        INDEX_IS_CURRENT,
        asset=key,
        description=f"{catalog}/index holds exactly the items of {catalog}/embeddings.",
    )
