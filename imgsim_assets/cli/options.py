"""Options that several commands share; a group of options becomes one argument of the command."""

from __future__ import annotations

import functools
import hashlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from pydantic import ValidationError

from imgsim_assets.cli.option_names import options_by_key, with_options
from imgsim_assets.cli.output_paths import check_outputs
from imgsim_assets.compute.settings import RAY_ADDRESS, ComputeSettings, EngineName
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import DEFAULT_ENCODER, EncoderSettings
from imgsim_assets.invalid_values import message_of
from imgsim_assets.settings import Settings
from imgsim_assets.storage.project import (
    declared_store,
    find_project_root,
    python_store_file,
)
from imgsim_assets.storage.store import Store

STDOUT = "-"
OUT_SUFFIXES = (".tsv", ".csv", ".parquet", ".jsonl")
TEXT_SUFFIXES = (".txt", ".csv", ".tsv")
Command = TypeVar("Command", bound=Callable[..., Any])
S = TypeVar("S", bound=Settings)


def parse_settings(kind: type[S], **values: Any) -> S:
    """Validate options as settings; an option that was not given keeps its default.

    Raises:
        click.UsageError: A value is not valid. The message names the option.
    """
    given = {key: value for key, value in values.items() if value not in (None, ())}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise click.UsageError(_usage_message(error)) from error


def _usage_message(error: ValidationError) -> str:
    """The first problem, with the names of options in place of the settings' keys."""
    first = error.errors(include_url=False)[0]
    options = options_by_key(click.get_current_context().command)
    if error.title == "EncoderSettings" and "encoder" in options:
        options |= {"name": options["encoder"], "factory": options["encoder"]}
    message = with_options(message_of(first), options)
    prefix, _, rest = message.partition(": ")
    # A validator may put the key before its message; the path of a union's member follows it.
    if rest and prefix.isidentifier():
        message = rest
    elif not first["loc"]:
        return message
    key = str(first["loc"][0]) if first["loc"] else prefix
    return f"{options.get(key, key)}: {message}"


def settings_hash(settings: Settings, *more: object) -> str:
    """Eight hex digits that name the table of these settings, beside the declared one."""
    text = "\n".join([settings.model_dump_json(), *map(repr, more)])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def split_names(_: click.Context, __: click.Parameter, listed: str | None) -> tuple[str, ...]:
    """Callback of an option that is a comma-separated list."""
    return tuple(part.strip() for part in listed.split(",")) if listed else ()


def option_group(
    argument: str, build: Callable[..., object], *options: Callable[[Any], Any]
) -> Callable[[Command], Command]:
    """A decorator that passes the options to `build`, and its result to the command."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(**values: Any) -> Any:
            given = {name: values.pop(name) for name in names}
            return command(**values, **{argument: build(**given)})

        decorated: Any = call
        for option in reversed(options):
            decorated = option(decorated)
        names = [parameter.name for parameter in decorated.__click_params__[-len(options) :]]
        return decorated  # type: ignore[no-any-return]

    return decorate


def allow_working_directory(
    _: click.Context, __: click.Parameter, function: str | None
) -> str | None:
    """Callback of an option that names code, which may be in the working directory.

    Other imports do not look there: a folder of somebody else may have a module of any name.
    """
    if function is not None and ":" in function:
        sys.path.append(str(Path.cwd()))
    return function


def _encoder(encoder: str, **values: Any) -> EncoderSettings:
    factory = encoder if ":" in encoder else None
    name = encoder.rpartition(":")[2]
    return parse_settings(EncoderSettings, name=name, factory=factory, **values)


def _download(hosts: Sequence[str], **values: Any) -> DownloadSettings:
    unverified = {host: {"verify_tls": False} for host in hosts} or None
    return parse_settings(DownloadSettings, hosts=unverified, **values)


def _split_headers(
    _: click.Context, __: click.Parameter, headers: Sequence[str]
) -> dict[str, str] | None:
    """Callback of --header; its messages show no value."""
    pairs = [header.partition("=") for header in headers]
    if not all(separator for _, separator, _ in pairs):
        raise click.UsageError("--header: write NAME=VALUE, such as 'Accept=image/webp'")
    return {name.strip(): value.strip() for name, _, value in pairs} or None


def _check_device(_: click.Context, __: click.Parameter, device: str | None) -> str | None:
    parse_settings(EncoderSettings, device=device)
    return device


def _parse_compute(_: click.Context, __: click.Parameter, engine: EngineName) -> ComputeSettings:
    settings = ComputeSettings(engine=engine)
    if problem := settings.problem():
        raise click.UsageError(f"--compute: {problem}")
    return settings


def on_device(compute: ComputeSettings, encoder: EncoderSettings) -> ComputeSettings:
    """The settings with the joins of this process on the device of --device, as forward passes."""
    if compute.engine != "local":
        return compute
    return compute.model_copy(update={"device": encoder.device})


def check_folder(_: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """Callback: refuse an output file that could not be written, before any work is done."""
    if path is not None and not Path(path).absolute().parent.is_dir():
        folder = Path(path).absolute().parent
        raise click.UsageError(f"{parameter.opts[0]}: there is no folder {str(folder)!r}")
    return path


def check_text_file(
    context: click.Context, parameter: click.Parameter, path: str | None
) -> str | None:
    """Callback of an option that names a text file to write."""
    if path is not None and Path(path).suffix not in ("", *TEXT_SUFFIXES):
        raise click.UsageError(
            f"{parameter.opts[0]}: {path} ends in none of {', '.join(TEXT_SUFFIXES)}"
        )
    return check_folder(context, parameter, path)


def check_out(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """The path of an output, whose suffix says how it is written."""
    if path is None or path == STDOUT:
        return path
    if Path(path).suffix not in OUT_SUFFIXES:
        raise click.UsageError(f"--out: {path} ends in none of {', '.join(OUT_SUFFIXES)}")
    return check_folder(context, parameter, path)


def _open_store(url: str | None) -> Store:
    """The named store, else that of the project, which Dagster loads if Python declares it."""
    root = find_project_root()
    if url is None and declared_store(root) is None and python_store_file(root) is not None:
        from imgsim_assets.components.store.of_project import store_of_project

        return store_of_project(root)
    return Store.open(url)


_STORE = "imgsim_assets.store"


def _parse_store(context: click.Context, _: click.Parameter, url: str | None) -> Store:
    context.meta[_STORE] = url
    return _open_store(url)


def store_option_as_given() -> str:
    """The option --store of the running command, for a command that it names; empty without."""
    context = click.get_current_context(silent=True)
    url = context.meta.get(_STORE) if context else None
    return f" --store {shlex.quote(url)}" if url else ""


store_option = click.option(
    "--store",
    metavar="PATH|URL",
    callback=_parse_store,
    help="Where tables and images are stored.  [default: as the project declares it, else "
    "IMGSIM_STORE, else data/store]",
)
encoder_options = option_group(
    "encoder",
    _encoder,
    click.option(
        "--encoder",
        metavar="NAME",
        default=DEFAULT_ENCODER,
        callback=allow_working_directory,
        show_default=True,
        help="imgsim_copy, hog_color, a model of torchvision or of another library, or "
        "module:function.",
    ),
    click.option(
        "--encoder-version",
        "version",
        metavar="TEXT",
        help="Version of your own encoder; a new one recomputes its vectors.",
    ),
    click.option(
        "--weights",
        metavar="NAME|FILE",
        help="torchvision's name of the weights, or the file of a state dict.",
    ),
    click.option(
        "--blank",
        type=click.Choice(["reject", "keep"]),
        help="keep: images of a single color take part too.  [default: reject]",
    ),
    click.option("--min-side", type=int, help="Minimum width and height in pixels.  [default: 16]"),
    click.option("--batch-size", type=int, help="Images per forward pass."),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="What encodes and compares images: auto, cpu or cuda[:N].",
    ),
)
download_options = option_group(
    "download",
    _download,
    click.option(
        "--concurrency", type=int, help="Maximum number of concurrent requests.  [default: 64]"
    ),
    click.option(
        "--allowed-host",
        "allowed_hosts",
        multiple=True,
        metavar="HOST[:PORT]",
        help="Internal host to fetch images from; repeat it for several.",
    ),
    click.option(
        "--allowed-url-prefix",
        "allowed_url_prefixes",
        multiple=True,
        metavar="URL",
        help="Folder of an object store to read images from, such as s3://bucket/folder/.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        metavar="SECONDS",
        type=float,
        help="Time limit of one attempt.  [default: 30]",
    ),
    click.option("--retries", type=int, help="Retries of an image in one run.  [default: 2]"),
    click.option("--max-pixels", type=int, help="Largest width x height.  [default: 50000000]"),
    click.option("--user-agent", metavar="TEXT", help="Product/version of the User-Agent header."),
    click.option(
        "--header",
        "headers",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_split_headers,
        help="Header of every request to the hosts of the images' URLs, such as "
        "'Referer=https://shop.example/'; repeat it for several.",
    ),
    click.option("--proxy", metavar="URL", help="http://[user:password@]host:port."),
    click.option(
        "--ca-file",
        metavar="FILE",
        help="PEM file of certificate authorities to trust in addition.",
    ),
    click.option(
        "--cookies",
        is_flag=True,
        callback=lambda _, __, is_set: "per_host" if is_set else None,
        help="Return the cookies of a host to it.",
    ),
    click.option(
        "--no-verify-tls",
        "hosts",
        multiple=True,
        metavar="HOST",
        help="Accept any certificate of this host; repeat it for several.",
    ),
)
_RAW = "imgsim_assets.raw"
raw_option = click.option(
    "--raw",
    is_flag=True,
    expose_value=False,
    callback=lambda context, _, is_raw: context.meta.update({_RAW: is_raw}),
    help="Write CSV and TSV as they are, without neutralizing formulas for spreadsheets.",
)


def is_raw() -> bool:
    """Whether the running command has --raw."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(_RAW))


def false_matches_option(command: Command) -> Command:
    """The option `--false-matches`, the budget of a measured threshold."""
    return click.option(
        "--false-matches",
        metavar="PERCENT",
        help="Largest share of items with a false match, for a measured threshold, such as 0.5% "
        "or 0.005.  [default: 1%]",
    )(command)


def out_option(command: Command) -> Command:
    """--out, and --raw for its text formats."""
    listed = f"{', '.join(OUT_SUFFIXES[:-1])} or {OUT_SUFFIXES[-1]}"
    out = click.option(
        "--out",
        metavar="FILE",
        callback=check_out,
        help=f"Write {listed}; - writes TSV to stdout.",
    )
    return out(raw_option(check_outputs(command)))


def _check_html(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    if path is not None and Path(path).suffix not in (".html", ".htm"):
        raise click.UsageError(f"--html: {path} does not end in .html")
    return check_folder(context, parameter, path)


html_option = click.option(
    "--html",
    metavar="FILE",
    callback=_check_html,
    help="Write a page with the images, which works offline; of more than 2,000 pairs the images "
    "are in a folder beside it.",
)
compute_option = click.option(
    "--compute",
    type=click.Choice(get_args(EngineName)),
    default="local",
    show_default=True,
    callback=_parse_compute,
    help=f"Where images are compared: in this process, or on the Ray cluster of {RAY_ADDRESS}.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Show no progress.")


def encoder_override_options(command: Command) -> Command:
    """--device, --weights and --factory of an encoder that the store has recorded."""
    factory = click.option(
        "--factory",
        metavar="MODULE:FUNCTION",
        callback=allow_working_directory,
        help="The encoder's factory, if it has one. Its code runs only if it is named here.",
    )
    weights = click.option(
        "--weights", metavar="FILE", help="The encoder's weights file, if its path has changed."
    )
    device = click.option(
        "--device",
        callback=_check_device,
        help="What encodes images: auto, cpu or cuda[:N].  [default: auto]",
    )
    return device(weights(factory(command)))
