"""Options that several commands share, and settings made from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from imgsim_assets.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])
S = TypeVar("S", bound=Settings)


def store_option(command: Command) -> Command:
    """--store: where tables and images are."""
    return click.option(
        "--store",
        "store_url",
        metavar="PATH|URL",
        envvar="IMGSIM_STORE",
        help="Where tables and images are kept.  [default: data/store]",
    )(command)


def json_option(command: Command) -> Command:
    """--json: for machines."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document for machines."
    )(command)


def quiet_option(command: Command) -> Command:
    """--quiet: no progress."""
    return click.option("--quiet", "-q", is_flag=True, help="Show no progress.")(command)


def encoder_options(command: Command) -> Command:
    """--encoder and what belongs to it."""
    for option in (
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N]."),
        click.option("--batch-size", type=int, help="Images a forward pass."),
        click.option(
            "--weights",
            metavar="NAME|FILE",
            help="Published weights by name, or the file of a state dict.",
        ),
        click.option(
            "--encoder-version",
            metavar="TEXT",
            help="Of an encoder of your own; vectors are computed anew when it changes.",
        ),
        click.option(
            "--encoder",
            metavar="NAME",
            default="mobilenet_v3_large",
            show_default=True,
            help="hog_color (needs no weights), a torchvision model, or module:function.",
        ),
    ):
        command = option(command)
    return command


def encoder_override_options(command: Command) -> Command:
    """--device and --weights: where an encoder that was recorded is to be had now."""
    for option in (
        click.option(
            "--weights",
            metavar="FILE",
            help="Where the encoder's weights file lies, if it was moved.",
        ),
        click.option("--device", callback=_device, help="auto, cpu or cuda[:N].  [default: auto]"),
    ):
        command = option(command)
    return command


def _device(_: click.Context, __: click.Parameter, device: str | None) -> str | None:
    from imgsim_assets.encoders.settings import EncoderSettings

    parse_settings(EncoderSettings, device=device)
    return device


def download_options(command: Command) -> Command:
    """Manners of the downloader."""
    for option in (
        click.option("--timeout", type=float, help="Seconds for one attempt.  [default: 30]"),
        click.option(
            "--allowed-host",
            "allowed_hosts",
            multiple=True,
            metavar="HOST[:PORT]",
            help="An internal host that may be fetched all the same; repeat for several.",
        ),
        click.option("--concurrency", type=int, help="Requests under way at once.  [default: 64]"),
    ):
        command = option(command)
    return command


def parse_settings(kind: type[S], **values: Any) -> S:
    """Settings from the options that were given; those left out keep their defaults."""
    given = {key: value for key, value in values.items() if value not in (None, ())}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise click.UsageError(_usage_message(error)) from error


def _usage_message(error: ValidationError) -> str:
    """The first problem, under the name of the shell's option."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    prefix, _, rest = message.partition(": ")
    # A validator may put the key before its message; the path of a union's member follows it.
    if rest and prefix.isidentifier():
        message = rest
    elif not first["loc"]:
        return message
    key = str(first["loc"][0]) if first["loc"] else prefix
    for parameter in click.get_current_context().command.params:
        if key == parameter.name or f"--{key}" in parameter.opts:
            key = parameter.opts[0]
    return f"{key}: {message}"


def settings_hash(settings: Settings) -> str:
    """The name of a table for these settings alone, beside the one that is declared."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:8]


def encoder_settings(
    encoder: str, version: str | None, weights: str | None, batch_size: int | None, device: str
) -> Any:
    """EncoderSettings from the options of `encoder_options`."""
    from imgsim_assets.encoders.settings import EncoderSettings

    if ":" in encoder:
        name = encoder.rpartition(":")[2]
        chosen = {"name": name, "factory": encoder}
    else:
        chosen = {"name": encoder}
    return parse_settings(
        EncoderSettings,
        **chosen,
        version=version,
        weights=weights,
        batch_size=batch_size,
        device=device,
    )
