"""`imgsim status`: how the store's catalogs and match tables stand."""

from __future__ import annotations

import click

from imgsim_assets.cli.options import json_option, store_option
from imgsim_assets.cli.output import show_json
from imgsim_assets.pipeline.status import (
    CatalogStatus,
    MatchStatus,
    catalog_names,
    catalog_status,
    match_statuses,
)
from imgsim_assets.storage.store import Store


@click.command(
    epilog="""\b
Examples:
  imgsim status
  imgsim status products --json
"""
)
@click.argument("catalogs", nargs=-1, metavar="[CATALOG]...")
@store_option
@json_option
def command(catalogs: tuple[str, ...], store_url: str | None, as_json: bool) -> None:
    """Show what is there, what is behind what it is made from, and what failed."""
    store = Store.open(store_url)
    known = catalog_names(store)
    for name in catalogs:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise click.UsageError(f"{store.url} has no catalog {name!r}; it has {listed}")
    shown = [catalog_status(store, name) for name in catalogs or known]
    matches = [
        match
        for match in match_statuses(store)
        if not catalogs or {match.left, match.right} & set(catalogs)
    ]
    if as_json:
        show_json({"store": store.url, "catalogs": shown, "matches": matches})
        return
    click.echo(f"store: {store.url}")
    for status in shown:
        _tell_catalog(status)
    for match in matches:
        _tell_match(match)


def _tell_catalog(status: CatalogStatus) -> None:
    click.echo(
        f"\n{status.name}: {status.items} items, {status.images} images, {status.vectors} "
        f"vectors by {status.encoder or 'no encoder yet'}"
    )
    click.echo("  " + ", ".join(f"{stage} {state}" for stage, state in status.stages.items()))
    if status.rejects:
        click.echo(f"  {status.rejects} rows of the source left out: table {status.name}/rejects")
    if status.failures:
        failures = ", ".join(f"{kind} {count}" for kind, count in status.failures.items())
        click.echo(f"  failing: {failures}")
    if status.retryable:
        click.echo(f"  {status.retryable} of them may pass: imgsim retry {status.name} --retryable")


def _tell_match(match: MatchStatus) -> None:
    click.echo(
        f"\nmatches/{match.name}: {match.matches} matches of {match.left} and {match.right}, "
        f"{match.mode} at {match.threshold:g}, {match.state}"
    )
