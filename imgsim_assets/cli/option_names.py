"""Messages in the words of the shell: options in place of the keys of YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping

import click

# 'key: value' or 'key:', as messages quote settings.
_QUOTED_KEY = re.compile(r"'(\w+):(?: ([^'\n]*))?'(?: of the (?:source|encoder))?")
# Several columns, as a message about YAML writes them.
_LIST = re.compile(r"^\[(.*)\]$")
_FIRST_KEY = re.compile(r"^(\w+): ")
# Settings that a flag sets.
_FLAGS = {("header", "false"): "--no-header"}


def options_by_key(command: click.Command) -> dict[str, str]:
    """The options of a command by the keys of the settings that they set."""
    options: dict[str, str] = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for key in (parameter.name or "", parameter.opts[0].removeprefix("--")):
                options[key.removesuffix("_column")] = parameter.opts[0]
    return options


def in_shell_words(message: str, options: Mapping[str, str]) -> str:
    """A message with the options that set what it names; other keys stay as they are."""
    return _FIRST_KEY.sub(
        lambda match: f"{options[match[1]]}: " if match[1] in options else match[0],
        with_options(message, options),
    )


def with_options(message: str, options: Mapping[str, str]) -> str:
    """A message with options in place of quoted settings, such as 'k: 5'."""

    def replace(match: re.Match[str]) -> str:
        key, value = match[1], match[2]
        flag = _FLAGS.get((key, value or ""))
        if flag is not None and flag in options.values():
            return f"'{flag}'"
        if key not in options:
            return match[0]
        listed = _LIST.sub(lambda names: names[1].replace(", ", ","), value or "")
        return f"'{options[key]} {listed}'" if listed else f"'{options[key]}'"

    return _QUOTED_KEY.sub(replace, message)
