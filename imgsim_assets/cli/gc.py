"""`imgsim gc`: delete what nothing refers to any more."""

from __future__ import annotations

import click

from imgsim_assets.cli.options import json_option, parse_settings, store_option
from imgsim_assets.cli.output import show_json
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.store import Store


@click.command(
    epilog="""\b
Examples:
  imgsim gc --dry-run
  imgsim gc --retain-last 3 --min-age-hours 24
"""
)
@click.option("--retain-last", type=int, help="Newest versions kept of every table.  [default: 5]")
@click.option("--min-age-hours", type=float, help="Age below which all is kept.  [default: 168]")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@store_option
@json_option
def command(
    retain_last: int | None,
    min_age_hours: float | None,
    dry_run: bool,
    store_url: str | None,
    as_json: bool,
) -> None:
    """Delete old versions, and images and vectors that no catalog has any more."""
    rules = parse_settings(RetentionPolicy, retain_last=retain_last, min_age_hours=min_age_hours)
    collected = collect_garbage(Store.open(store_url), rules, dry_run=dry_run)
    if as_json:
        show_json(collected)
        return
    verb = "would delete" if dry_run else "deleted"
    click.echo(
        f"{verb} {collected.commits} versions, {collected.files} files, {collected.blobs} images "
        f"and {collected.vectors} vectors: {collected.bytes / 1e6:.1f} MB"
    )
