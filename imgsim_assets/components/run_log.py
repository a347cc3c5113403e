"""What a local run prints: progress lines while it runs, and one message for each failure."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from imgsim_assets.components.markdown import unescape_markdown
from imgsim_assets.download.status import OK
from imgsim_assets.pipeline.failures import EMBEDDINGS, IMAGES, SOURCE
from imgsim_assets.pipeline.status_actions import action_for
from imgsim_assets.progress import Log
from imgsim_assets.similarity.settings import METHOD, NO_THRESHOLD
from imgsim_assets.text import counted

LOGGER = "imgsim"
_CHECK_EVALUATION = dg.DagsterEventType.ASSET_CHECK_EVALUATION
_ERROR = dg.AssetCheckSeverity.ERROR
# The class of an error of this package, before its message.
_OWN_ERROR = re.compile(r"^imgsim_assets\.errors\.\w+: ")


def progress_logger(log: Log) -> dg.LoggerDefinition:
    """A logger that passes on the messages of steps, materializations and failed checks."""

    def create(_: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger(LOGGER, level=logging.DEBUG)  # the level of events
        logger.addHandler(_Handler(log))
        return logger

    return dg.LoggerDefinition(create, description="Progress lines of a local run.")


class _Handler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self._advised: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        fields: Mapping[str, Any] = getattr(record, "dagster_meta", {})
        event: dg.DagsterEvent | None = fields.get("dagster_event")
        if event is None and record.levelno >= logging.INFO:
            self._log(f"  {fields.get('orig_message') or record.getMessage()}")
        elif event is not None and event.is_step_materialization:
            materialization = event.step_materialization_data.materialization
            self._log(f"  {describe_materialization(materialization)}")
            # Every shard has the same advice.
            for line in dict.fromkeys(advice(materialization)):
                if line not in self._advised:
                    self._advised.add(line)
                    self._log(f"    {line}")
        elif event is not None and event.event_type is _CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if not evaluation.passed:
                self._log(f"  {describe_failed_check(evaluation)}")


def describe_materialization(materialization: dg.AssetMaterialization) -> str:
    """A line about a materialization: asset, shard, rows, what changed, failed, and compared."""
    name = _name(materialization.asset_key, materialization.partition)
    metadata = _values(materialization)
    if "changed" not in metadata:
        return f"{name}: materialized"
    changed = "changed" if metadata["changed"] else "unchanged"
    rows: Any = metadata.get("dagster/row_count")
    counts = counted(rows, "row") if rows is not None else "no rows"
    failed = (f"{count:,} {status}" for _, status, count in _failures(metadata))
    return "; ".join([f"{name}: {counts}, {changed}", *failed, *_compared(metadata)])


def advice(materialization: dg.AssetMaterialization) -> Iterator[str]:
    """What to do about the failures and the threshold of a materialization, in lines."""
    metadata = _values(materialization)
    for stage, status, _ in _failures(metadata):
        if action := action_for(stage, status):
            yield f"{status}: {action}"
    if "threshold_hint" in metadata:
        yield str(metadata["threshold_hint"])


def describe_failed_check(evaluation: dg.AssetCheckEvaluation) -> str:
    """A line about a check that failed: asset, shard, check, severity and message."""
    name = _name(evaluation.asset_key, evaluation.partition)
    severity = evaluation.severity.value.lower()
    line = f"{name}: check {evaluation.check_name} failed ({severity})"
    # Descriptions are Markdown, since Dagster renders them.
    message = " ".join(unescape_markdown(evaluation.description or "").split())
    return f"{line}: {message}" if message else line


def _name(key: dg.AssetKey, partition: str | None) -> str:
    return key.to_user_string() + (f"[{partition}]" if partition else "")


def _values(materialization: dg.AssetMaterialization) -> dict[str, Any]:
    return {name: value.value for name, value in materialization.metadata.items()}


def _failures(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """The stage, status and count of the failures that a catalog's asset has in its metadata."""
    stage = EMBEDDINGS if "encoder" in metadata else IMAGES
    tables = (("rejects_by_reason", "reason", SOURCE), ("statuses", "status", stage))
    for name, column, stage_of_table in tables:
        table = metadata.get(name)
        if "changed" not in metadata or not isinstance(table, dg.TableMetadataValue):
            continue
        for record in table.records:
            if (status := str(record.data[column])) != OK:
                yield stage_of_table, status, int(str(record.data["count"]))


def _compared(metadata: Mapping[str, Any]) -> Iterator[str]:
    """How a graph, a match table or groups compared images."""
    if METHOD not in metadata:
        return
    if (source := metadata.get("threshold_source")) == NO_THRESHOLD or source is None:
        yield "no threshold"
    else:
        yield f"threshold {metadata['threshold']:g} ({source})"
    method = f"method {metadata[METHOD]}"
    if (recall := metadata.get("recall")) is not None:
        method += f", recall {recall if isinstance(recall, str) else format(recall, '.3f')}"
    yield method


def failure_messages(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The message of each step that failed, by the name of its asset."""
    messages: dict[str, str] = {}
    checks: dict[str, list[str]] = {}
    for event in result.all_events:
        # The op of an asset is named by its key, joined by two underscores.
        name = str(event.step_key).replace("__", "/", 1)
        if event.event_type is _CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if not evaluation.passed and evaluation.blocking and evaluation.severity is _ERROR:
                line = describe_failed_check(evaluation).removeprefix(f"{name}: ")
                checks.setdefault(name, []).append(line)
        if not event.is_step_failure:
            continue
        failure = event.step_failure_data
        message = event.message or "failed"
        if failure.user_failure_data and failure.user_failure_data.description:
            message = failure.user_failure_data.description
        elif failure.error:
            message = _OWN_ERROR.sub("", (failure.error.cause or failure.error).message.strip())
        # Dagster's own message about a check that stopped the step has only its name.
        messages[name] = "; ".join(checks.get(name, [])) or message
    return messages
