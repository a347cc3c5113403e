"""What a local run prints: progress lines while it runs, and one message for each failure."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from imgsim_assets.progress import Log
from imgsim_assets.similarity.settings import METHOD, NO_THRESHOLD
from imgsim_assets.text import counted

LOGGER = "imgsim"
# The class of an error of this package, before its message.
_OWN_ERROR = re.compile(r"^imgsim_assets\.errors\.\w+: ")


def progress_logger(log: Log) -> dg.LoggerDefinition:
    """A logger that passes on the messages of steps, and a line for each materialization."""

    def create(_: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger(LOGGER, level=logging.DEBUG)  # the level of events
        logger.addHandler(_Handler(log))
        return logger

    return dg.LoggerDefinition(create, description="Progress lines of a local run.")


class _Handler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: Mapping[str, Any] = getattr(record, "dagster_meta", {})
        event: dg.DagsterEvent | None = fields.get("dagster_event")
        if event is None and record.levelno >= logging.INFO:
            self._log(f"  {fields.get('orig_message') or record.getMessage()}")
        elif event is not None and event.is_step_materialization:
            self._log(
                f"  {describe_materialization(event.step_materialization_data.materialization)}"
            )


def describe_materialization(materialization: dg.AssetMaterialization) -> str:
    """A line about a materialization: asset, shard, rows, what changed, and how it compared."""
    shard = f"[{materialization.partition}]" if materialization.partition else ""
    metadata = {name: value.value for name, value in materialization.metadata.items()}
    name = materialization.asset_key.to_user_string()
    if "changed" not in metadata:
        return f"{name}{shard}: materialized"
    changed = "changed" if metadata["changed"] else "unchanged"
    rows: Any = metadata.get("dagster/row_count")
    counts = counted(rows, "row") if rows is not None else "no rows"
    return "; ".join([f"{name}{shard}: {counts}, {changed}", *_compared(metadata)])


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
    for event in result.all_events:
        if not event.is_step_failure:
            continue
        failure = event.step_failure_data
        message = event.message or "failed"
        if failure.user_failure_data and failure.user_failure_data.description:
            message = failure.user_failure_data.description
        elif failure.error:
            message = _OWN_ERROR.sub("", (failure.error.cause or failure.error).message.strip())
        # The op of an asset is named by its key, joined by two underscores.
        messages[str(event.step_key).replace("__", "/", 1)] = message
    return messages
