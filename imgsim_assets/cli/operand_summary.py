"""What `imgsim match` and `imgsim groups` say about an operand: its items, notices and failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from imgsim_assets.catalog.rejects import counts_line
from imgsim_assets.catalog.stage import rejects_table
from imgsim_assets.cli.operands import CatalogArg, source_lines
from imgsim_assets.cli.option_names import in_shell_words
from imgsim_assets.cli.options import store_option_as_given
from imgsim_assets.download.http.urls import host_of, is_internal
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.pipeline.run import PipelineReport
from imgsim_assets.pipeline.status import CatalogStatus
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

_MAX_SHOWN_REJECTS = 3
_MAX_SHOWN_HOSTS = 3


@dataclass(frozen=True)
class OperandSummary:
    """An operand, its catalog's status, and the report of this run, None without one."""

    arg: CatalogArg
    status: CatalogStatus
    report: PipelineReport | None

    def document(self) -> dict[str, Any]:
        """The operand in a JSON document."""
        counts = ["items", "usable_items", "rejects", "rejected_images"]
        counts += ["images", "vectors", "failures"]
        return {
            "source": self.arg.title,
            "catalog": self.arg.name,
            **{name: getattr(self.status, name) for name in counts},
            **_source_document(self.arg, self.report),
            # A catalog of the store has no report: this run did nothing for it.
            **{
                name: getattr(self.report, name, 0) for name in ("requested", "fetched", "embedded")
            },
        }

    def lines(self, store: Store, options: Mapping[str, str]) -> Iterator[str]:
        """The operand in lines: counts, notices, failures and rejected rows.

        Args:
            store: holds the catalog.
            options: the options of the command, by the keys of the settings that they set.
        """
        status, done = self.status, self.report
        fetched, count = status.images or 0, status.items or 0  # a damaged table raises
        images = fetched + sum(status.fetch_failures.values())
        several = f" with {counted(images, 'image')}" if images != count else ""
        items = f"{counted(count, 'item')}{several}"
        line = f"{self.arg.title}: {items}, {status.usable_items} usable"
        if done is not None:
            line += (
                f" ({done.requested} requested, {done.fetched} fetched, {done.embedded} embedded)"
            )
        yield line
        if done is not None and done.items is not None:
            read = done.items
            is_folder = Path(self.arg.title).is_dir()
            columns = (read.id_column, read.url_columns)
            notices = [*self.arg.notices, *read.notices]
            for notice in notices if is_folder else source_lines(*columns, notices):
                yield f"  {in_shell_words(notice, options)}"
        if status.failures:
            counts = ", ".join(f"{name} {count}" for name, count in status.failures.items())
            yield f"  failed: {counts}"
            yield f"  to see which: imgsim failures {self.arg.name}{store_option_as_given()}"
        if "blocked_path" in status.failures:
            yield "  if local images may be read from another folder, name it with --root"
        if not status.failures.keys().isdisjoint(("blocked_address", "connection_error")):
            yield from _internal_hosts(store, self.arg.name)
        if status.rejects or status.rejected_images:
            table = rejects_table(store, self.arg.name)
            commit = table.latest()
            rows = table.read(commit) if commit else pl.DataFrame()
            yield f"  {counts_line(rows)}"
            for row in rows.head(_MAX_SHOWN_REJECTS).iter_rows(named=True):
                detail = in_shell_words(row["detail"], options)
                yield f"    {row['file']} line {row['line']}: {detail}"


def _source_document(arg: CatalogArg, report: PipelineReport | None) -> dict[str, Any]:
    if report is None or report.items is None:
        return {}
    items = report.items
    return {
        "id_column": items.id_column,
        "url_columns": items.url_columns,
        "notices": [*arg.notices, *items.notices],
    }


def _internal_hosts(store: Store, name: str) -> Iterator[str]:
    """The internal hosts that were not dialed or do not answer, and what helps."""
    ledger = ledger_table(store, name)
    commit = ledger.latest()
    if commit is None:
        return
    rows = ledger.read(commit, columns=["url", "status"])
    for status, advice in (
        ("blocked_address", "if it may be fetched from, add --allowed-host {}"),
        ("connection_error", "it does not answer: is its server running?"),
    ):
        hosts = sorted(set(map(host_of, rows.filter(pl.col("status") == status)["url"])))
        internal = [host for host in hosts if status == "blocked_address" or _is_internal(host)]
        for host in internal[:_MAX_SHOWN_HOSTS]:
            yield f"  {host} is an internal host; {advice.format(host)}"


def _is_internal(host: str) -> bool:
    return is_internal(host.rpartition(":")[0].strip("[]"))
