"""Templates and static files of the pages; a self-contained page has the same inside."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

STATIC = "static"
_IMPORT = re.compile(r'^import \{ .* \} from "\./.+";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=function|const|class|async)", re.MULTILINE)


def render(template: str, **values: Any) -> str:
    """A page from a template of this package; values are escaped.

    Args:
        template: file name, such as "review.html".
        values: what the template and `layout.html` use.
    """
    return _environment().get_template(template).render(values)


def static_folder() -> Path:
    """The folder with the style sheets and ES modules."""
    return Path(str(files("imgsim_assets.pages").joinpath(STATIC)))


def style(*names: str) -> str:
    """Style sheets as one text, for a self-contained page."""
    return "".join(_read(name) for name in names)


def script(*names: str) -> str:
    """ES modules as one text without imports, for a self-contained page.

    Args:
        names: the modules, each after those that it imports. They share one scope, so that no two
            may have a name in common.
    """
    return "".join(_EXPORT.sub("", _IMPORT.sub("", _read(name))) for name in names)


def _read(name: str) -> str:
    return (static_folder() / name).read_text("utf-8")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("imgsim_assets.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
