"""The one place where commands print: text of others arrives without control characters."""

from __future__ import annotations

import click

from imgsim_assets.text import printable


def echo(message: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print on stdout, or on stderr with `err`; see `text.printable`."""
    click.echo(printable(str(message)), err=err, nl=nl)
