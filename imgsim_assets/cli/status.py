"""`imgsim status`: the state of the store's catalogs and match tables."""

from __future__ import annotations

from collections.abc import Iterator

import click

from imgsim_assets.cli import options
from imgsim_assets.cli.catalog_argument import require_catalogs
from imgsim_assets.cli.main import EXIT_PROBLEMS_FOUND
from imgsim_assets.cli.output import show_json
from imgsim_assets.cli.terminal import echo
from imgsim_assets.pipeline.status import (
    CatalogStatus,
    GroupStatus,
    MatchStatus,
    store_status,
)
from imgsim_assets.similarity.approximate.recall import NOT_MEASURED
from imgsim_assets.similarity.join_spec import MIN_COSINE
from imgsim_assets.similarity.settings import APPROXIMATE
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

_LOOKED_AT = (
    "looked at: ids, hashes, statuses, and the sizes of the tables' files; 'imgsim verify' reads "
    "everything"
)


@click.command(
    epilog="""\b
Examples:
  imgsim status
  imgsim status products --json
"""
)
@click.argument("catalogs", nargs=-1, metavar="[CATALOG]...")
@options.store_option
@options.json_option
def command(catalogs: tuple[str, ...], store: Store, as_json: bool) -> int:
    """Show which tables of the store are fresh, stale, empty or missing, and what failed.

    A table is stale when its inputs have other items, or vectors of another encoder, than those it
    was computed from. It is empty when none of its images was fetched or has a vector. Where a file
    is damaged, the rest is shown, and the exit code is 3.

    Read are ids, hashes and statuses, and of all files of the tables their sizes; 'imgsim verify'
    reads everything.
    """
    require_catalogs(store, *catalogs)
    status = store_status(store, catalogs)
    if as_json:
        show_json({"store": store.url, **vars(status)})
    else:
        lines = [line for each in status.catalogs for line in _catalog_lines(each)]
        if not lines:
            lines = [
                "it has no catalog yet; 'imgsim run' materializes a project, 'imgsim match' two "
                "lists"
            ]
        results = [*map(_match_line, status.matches), *map(_group_line, status.groups)]
        problems = [f"\nproblem: {problem}" for problem in status.problems]
        looked_at = [f"\n{_LOOKED_AT}"] if status.catalogs else []
        echo("\n".join([f"store: {store.url}", *lines, *results, *problems, *looked_at]))
    return EXIT_PROBLEMS_FOUND if status.problems else 0


def _catalog_lines(status: CatalogStatus) -> Iterator[str]:
    usable = ""
    if status.usable_items is not None and status.usable_items < (status.items or 0):
        usable = f" ({status.usable_items} usable)"
    yield (
        f"\n{status.name}: {_counted(status.items, 'item')}{usable}, "
        f"{_counted(status.images, 'image')}, {_counted(status.vectors, 'vector')} by "
        f"{_encoder(status)}"
    )
    yield "  " + ", ".join(
        f"{stage} {state}{_recall(status.recalls[stage]) if stage in status.recalls else ''}"
        for stage, state in status.stages.items()
    )
    if status.rejects or status.rejected_images:
        images = f", images: {status.rejected_images}" if status.rejected_images else ""
        see = f"to see them: imgsim failures {status.name}"
        yield f"  rejected rows: {status.rejects}{images}; {see}"
    if status.failures:
        failures = ", ".join(f"{name} {count}" for name, count in status.failures.items())
        yield f"  failed: {failures}"
    if status.retryable:
        yield f"  {status.retryable} retryable: imgsim retry {status.name} --retryable"


def _counted(number: int | None, noun: str) -> str:
    """A number with its noun, which a damaged file may keep from being known."""
    return counted(number, noun) if number is not None else f"unknown {noun}s"


def _encoder(status: CatalogStatus) -> str:
    if status.encoder is not None:
        return status.encoder
    return "no encoder yet" if status.vectors is not None else "an unknown encoder"


def _match_line(match: MatchStatus) -> str:
    is_limited = match.threshold > MIN_COSINE
    limit = f"at {match.threshold:g}" if is_limited else "without a threshold"
    line = (
        f"\nmatches/{match.name}: {counted(match.matches, 'match', 'matches')} of {match.left} "
        f"and {match.right}, {match.mode} {limit}, {match.freshness}"
        f"{_recall(match.recall) if match.method == APPROXIMATE else ''}"
    )
    return line + _judged(match)


def _recall(recall: float | None) -> str:
    """The recall of an approximate result."""
    measured = NOT_MEASURED if recall is None else f"{recall:.3f}"
    return f" ({APPROXIMATE}, recall {measured})"


def _judged(match: MatchStatus) -> str:
    """What decisions measure, in further lines."""
    text = ""
    if (decided := match.by_decisions) is not None:
        text += (
            f"\n  threshold by {counted(decided.pairs, 'judged pair')} around it "
            f"({decided.low:g} to {decided.high:g})"
        )
    if (precision := match.precision) is not None:
        value = "unknown" if precision.value is None else f"{precision.value:.3f}"
        unsure = f", {precision.unsure} unsure" if precision.unsure else ""
        text += (
            f"\n  precision {value} ({precision.low:.3f} to {precision.high:.3f}), of "
            f"{counted(precision.sampled, 'random match', 'random matches')}{unsure}"
        )
    return text


def _group_line(group: GroupStatus) -> str:
    suspicious = f"\n  {group.suspicious} suspicious: imgsim verify" if group.suspicious else ""
    groups = f"{_counted(group.groups, 'group')} of {counted(group.grouped, 'item')}"
    return (
        f"\n{group.table}: {groups} of {' and '.join(group.catalogs)}, at {group.threshold:g}, "
        f"{group.freshness}"
        f"{_recall(group.recall) if group.method == APPROXIMATE else ''}{suspicious}"
    )
