"""Output files of a command, which must not replace what the command reads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import open_source
from imgsim_assets.errors import SourceError, in_home
from imgsim_assets.search.image_files import is_folder_or_glob

Command = TypeVar("Command", bound=Callable[..., Any])
# The options that name a file to write.
_OUTPUTS = ("out", "deletions", "html")
_STDOUT = "-"


def check_outputs(command: Command) -> Command:
    """A decorator that refuses outputs which would replace an input or each other."""

    @functools.wraps(command)
    def call(**values: Any) -> Any:
        _refuse_replacing(click.get_current_context())
        return command(**values)

    checked: Any = call
    return checked  # type: ignore[no-any-return]


def _refuse_replacing(context: click.Context) -> None:
    operands: list[str] = []
    outputs: list[tuple[str, Path]] = []
    files: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Argument):
            operands += _texts(value)
        elif parameter.name not in _OUTPUTS:
            files += _texts(value)
        elif value not in (None, _STDOUT):
            outputs.append((parameter.opts[0], Path(value)))
    seen: dict[Path, str] = {}
    for option, path in outputs:
        first = seen.setdefault(path.resolve(), option)
        if first != option:
            raise click.UsageError(f"{option}: {first} writes {path}, too; name another file")
        if path.is_file() and (
            any(_is_same(text, path) for text in (*operands, *files))
            or any(_holds(text, path) for text in operands)
        ):
            raise click.UsageError(
                f"{option}: {path} is an input of this command; name another file"
            )


def _texts(value: Any) -> Iterator[str]:
    """The texts of a parameter, which may name files."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _texts(each)


def _is_same(text: str, path: Path) -> bool:
    try:
        return path.samefile(in_home(text))
    except (OSError, ValueError):  # no path, or of no file
        return False


def _holds(operand: str, path: Path) -> bool:
    """Whether an operand is a folder or glob that a file is read from."""
    if not is_folder_or_glob(operand):
        return False
    try:
        source = open_source(SourceSettings(path=operand), Path.cwd())
    except SourceError:  # the command reads nothing of it, and says why
        return False
    return any(_is_same(file.path, path) for file in source.files)
