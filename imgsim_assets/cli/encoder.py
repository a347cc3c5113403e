"""`imgsim encoder`: which encoders there are, what is known of one, and its weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from imgsim_assets.cli import options
from imgsim_assets.cli.main import EXIT_FAILED
from imgsim_assets.cli.output import show_json
from imgsim_assets.cli.terminal import echo

if TYPE_CHECKING:
    from imgsim_assets.encoders.description import EncoderDescription

_MAX_LISTED = 40

revision_option = click.option("--revision", help="Commit, tag or branch of a model of the Hub.")
weights_option = click.option("--weights", help="Name or file of the weights, as in YAML.")


@click.group(
    epilog="""\b
Examples:
  imgsim encoder list "timm/*dinov2*"
  imgsim encoder show resnet50
  imgsim encoder pull timm/vit_small_patch14_dinov2.lvd142m
"""
)
def command() -> None:
    """List encoders, show one, or download its weights."""


@command.command("list")
@click.argument("pattern", default="*")
@click.option("--all", "show_all", is_flag=True, help=f"Show more than {_MAX_LISTED} names.")
@options.json_option
def list_command(pattern: str, show_all: bool, as_json: bool) -> int:
    """List the encoders whose name matches PATTERN, of the libraries that are installed."""
    from imgsim_assets.encoders.description import list_encoders

    names = list_encoders(pattern)
    if as_json:
        show_json(names)
        return 0
    shown = names if show_all else names[:_MAX_LISTED]
    echo("\n".join(shown))
    if len(names) > len(shown):
        echo(f"... and {len(names) - len(shown)} more: give a pattern, or --all", err=True)
    if not names:
        echo(
            f"imgsim: no encoder matches {pattern!r}; for names of timm and OpenCLIP, install "
            "'imgsim_assets[timm]' and 'imgsim_assets[clip]'",
            err=True,
        )
        return EXIT_FAILED
    return 0


@command.command("show")
@click.argument("name")
@revision_option
@weights_option
@options.json_option
def show_command(name: str, revision: str | None, weights: str | None, as_json: bool) -> None:
    """Show what is known of the encoder NAME: dimension, input, license, and its weights."""
    from imgsim_assets.encoders.description import describe_encoder, encoder_settings

    _show(describe_encoder(encoder_settings(name, revision, weights)), as_json=as_json)


@command.command("pull")
@click.argument("name")
@revision_option
@weights_option
@options.json_option
def pull_command(name: str, revision: str | None, weights: str | None, as_json: bool) -> None:
    """Download the weights of the encoder NAME to the cache of its library."""
    from imgsim_assets.encoders.description import encoder_settings, pull_encoder

    _show(pull_encoder(encoder_settings(name, revision, weights)), as_json=as_json)


def _show(description: EncoderDescription, *, as_json: bool) -> None:
    from imgsim_assets.encoders.settings import HOG_COLOR

    if as_json:
        show_json(description)
        return
    unknown = "known when it is loaded"
    no_weights = "none needed"
    if description.name != HOG_COLOR:
        pull = f"imgsim encoder pull {description.name}"
        no_weights = f"not on this machine; '{pull}' downloads them"
    texts = {
        "threshold": "not measured; match tables measure one on their catalogs",
        "dim": unknown,
        "side": unknown,
        "license": "see the page of the model",
        "weights": no_weights,
        "megabytes": None,
    }
    for key, value in asdict(description).items():
        text = texts.get(key) if value is None else value
        if text is not None:
            echo(f"{key:>10}  {text}")
