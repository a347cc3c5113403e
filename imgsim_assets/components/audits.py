"""Audits: asset checks that read a whole table, with a job and a schedule of their own."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.checks import asset_check
from imgsim_assets.components.store.resource import STORE, open_store
from imgsim_assets.pipeline.settings import CheckSettings

if TYPE_CHECKING:
    from imgsim_assets.pipeline.check_result import CheckResult
    from imgsim_assets.storage.store import Store

AUDIT = "_audit"
# Evaluations that are looked at for the last result; runs that were canceled have none.
_HISTORY = 25


def audit_check(
    name: str,
    asset: dg.AssetKey,
    description: str,
    settings: CheckSettings,
    evaluate: Callable[["Store"], "CheckResult"],
) -> dg.AssetChecksDefinition:
    """An audit of an asset's table.

    In a run that materializes the asset, Dagster executes its checks too. There an audit reads
    nothing, and repeats its last result, so that a run costs what it changes.

    Args:
        name: of the check.
        asset: the audited asset.
        description: what passes.
        settings: its `severity` is that of a failure.
        evaluate: reads the table.
    """
    spec = dg.AssetCheckSpec(name, asset=asset, description=description)

    @dg.multi_asset_check(
        name="__".join([*asset.path, name]),
        specs=[spec],
        required_resource_keys={STORE},
        can_subset=True,  # its result may be left out
    )
    def audit(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        if not _materialized_by(context, asset):
            result = evaluate(open_store(context))
            yield asset_check(name, result, severity=settings.severity, key=asset)
            return
        context.log.info(f"{name} reads the whole table, so it runs alone: launch the audit job")
        yield from _last_result(context.instance, spec.key)

    return audit


def _materialized_by(context: dg.AssetCheckExecutionContext, asset: dg.AssetKey) -> bool:
    """Whether this run has materialized the asset."""
    newest = context.instance.get_latest_materialization_event(asset)
    return newest is not None and newest.run_id == context.run.run_id


def _last_result(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey
) -> Iterator[dg.AssetCheckResult]:
    """The last result of a check, if there is one."""
    # The public API gives the newest record only, which is the one that this run has planned.
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=_HISTORY)
    evaluations = [each.evaluation for each in history]
    for evaluation in evaluations:
        if isinstance(evaluation, dg.AssetCheckEvaluation):
            yield dg.AssetCheckResult(
                asset_key=check.asset_key,
                check_name=check.name,
                passed=evaluation.passed,
                severity=evaluation.severity,
                description=evaluation.description,
                metadata=evaluation.metadata,
            )
            return


def audit_job(
    name: str, audits: Sequence[dg.AssetChecksDefinition], settings: CheckSettings, timezone: str
) -> tuple[list[Any], list[dg.ScheduleDefinition]]:
    """The job `<name>_audit`, which runs audits alone, and its schedule, if one is declared."""
    job = dg.define_asset_job(
        f"{name}{AUDIT}",
        selection=dg.AssetSelection.checks(*audits),
        description=f"Read the tables of {name} in full, and evaluate their audits.",
    )
    if settings.audit_schedule is None:
        return [job], []
    schedule = dg.ScheduleDefinition(
        name=f"{name}{AUDIT}_schedule",
        job=job,
        cron_schedule=settings.audit_schedule,
        execution_timezone=timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Audits {name}.",
    )
    return [job], [schedule]
