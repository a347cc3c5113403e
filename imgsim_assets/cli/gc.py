"""`imgsim gc`: delete what no retained version refers to."""

from __future__ import annotations

import click

from imgsim_assets.cli import options
from imgsim_assets.cli.output import show_json
from imgsim_assets.cli.terminal import echo
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted


@click.command(
    epilog="""\b
Examples:
  imgsim gc --dry-run
  imgsim gc --retain-last 3 --min-age-hours 24
"""
)
@click.option(
    "--retain-last", type=int, help="Newest versions of each table to keep.  [default: 5]"
)
@click.option(
    "--min-age-hours", type=float, help="Age at which a file may be deleted.  [default: 168]"
)
@click.option("--dry-run", is_flag=True, help="Report what would be deleted; delete nothing.")
@options.store_option
@options.json_option
def command(
    retain_last: int | None,
    min_age_hours: float | None,
    dry_run: bool,
    store: Store,
    as_json: bool,
) -> None:
    """Delete old versions of tables, and images and vectors that no retained version refers to."""
    policy = options.parse_settings(
        RetentionPolicy, retain_last=retain_last, min_age_hours=min_age_hours
    )
    report = collect_garbage(store, policy, dry_run=dry_run)
    if as_json:
        show_json(report)
        return
    for message in report.damaged:
        echo(message, err=True)
    verb = "would delete" if dry_run else "deleted"
    echo(
        f"{verb} {counted(report.commits, 'version')}, {counted(report.files, 'file')}, "
        f"{counted(report.blobs, 'image')} and {counted(report.vectors, 'vector')}: "
        f"{report.bytes / 1e6:.1f} MB"
    )
