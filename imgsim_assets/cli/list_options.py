"""Options that say how a list of images is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import click

from imgsim_assets.catalog.settings import Format, OnDuplicate
from imgsim_assets.cli.options import allow_working_directory, option_group, split_names

# A column, or several.
Columns = str | tuple[str, ...]
C = TypeVar("C", bound=Columns)


@dataclass(frozen=True)
class ListOptions:
    """How `imgsim match` and `imgsim groups` read their lists.

    Attributes:
        source: settings of both sources, by their keys.
        id_columns, url_columns: the columns of the left and the right list, by the option that
            names them.
        columns: the source's columns in the result; none for all.
        loader: the function that loads the images.
    """

    source: Mapping[str, Any]
    id_columns: tuple[Mapping[str, str], Mapping[str, str]]
    url_columns: tuple[Mapping[str, Columns], Mapping[str, Columns]]
    columns: tuple[str, ...]
    loader: str | None


def _list_options(
    columns: tuple[str, ...],
    loader: str | None,
    left_id: str | None,
    right_id: str | None,
    left_url: Columns | None,
    right_url: Columns | None,
    **source: Any,
) -> ListOptions:
    common_id, common_url = source.pop("id"), source.pop("url")
    return ListOptions(
        source=source_values(**source),
        id_columns=(
            _named({"--left-id": left_id, "--id": common_id}),
            _named({"--right-id": right_id, "--id": common_id}),
        ),
        url_columns=(
            _named({"--left-url": left_url, "--url": common_url}),
            _named({"--right-url": right_url, "--url": common_url}),
        ),
        columns=columns,
        loader=loader,
    )


def _single_list_options(
    columns: tuple[str, ...], loader: str | None, **source: Any
) -> ListOptions:
    """The options of lists that are read alike."""
    id_columns = _named({"--id": source.pop("id")})
    url_columns = _named({"--url": source.pop("url")})
    return ListOptions(
        source=source_values(**source),
        id_columns=(id_columns, id_columns),
        url_columns=(url_columns, url_columns),
        columns=columns,
        loader=loader,
    )


def _named(columns: Mapping[str, C | None]) -> dict[str, C]:
    """The first option that names a column, or columns."""
    given = [(option, column) for option, column in columns.items() if column is not None]
    return dict(given[:1])


def source_values(no_header: bool = False, **values: Any) -> dict[str, Any]:
    """Settings of a source from its options; those that were not given are left out."""
    given = {key: value for key, value in values.items() if value is not None}
    return given | ({"header": False} if no_header else {})


def _split_columns(_: click.Context, __: click.Parameter, listed: str | None) -> Columns | None:
    """Callback of an option that names a column, or several that are separated by commas."""
    names = tuple(part.strip() for part in listed.split(",")) if listed else ()
    return names if len(names) > 1 else listed


_source_options = (
    click.option(
        "--id", metavar="COLUMN", help="Column of unique ids.  [default: recognized, or the image]"
    ),
    click.option(
        "--url",
        metavar="COLUMN[,...]",
        callback=_split_columns,
        help="Column of image URLs or paths, or several columns with further images of an item.  "
        "[default: recognized]",
    ),
    click.option(
        "--separator",
        metavar="TEXT",
        help="Text between the images of one cell.  [default: detected between URLs]",
    ),
    click.option(
        "--max-images", type=int, metavar="N", help="Images of an item at most.  [default: 10]"
    ),
    click.option(
        "--on-duplicate",
        type=click.Choice(get_args(OnDuplicate)),
        help="Which of the rows with one id is taken.  [default: first]",
    ),
    click.option(
        "--format",
        type=click.Choice([name for name in get_args(Format) if name != "images"]),
        help="Format of the list.  [default: by its suffix, else by its content]",
    ),
    click.option("--sheet", metavar="NAME", help="Sheet of a workbook."),
    click.option("--encoding", metavar="NAME", help="Encoding of the text.  [default: detected]"),
    click.option("--delimiter", metavar="CHAR", help="Field separator.  [default: detected]"),
    click.option("--quote", metavar="CHAR", help="Quote character; '' for none.  [default: \"]"),
    click.option(
        "--escape",
        metavar="CHAR",
        help="Character before a quote inside a field; '' for none.  [default: detected]",
    ),
    click.option(
        "--ragged",
        type=click.Choice(["pad", "reject"]),
        help="Lines with too few or too many fields.  [default: pad, unless fields would be lost]",
    ),
    click.option("--skip-lines", type=int, metavar="N", help="Lines before the table."),
    click.option("--comment", metavar="TEXT", help="Skip lines that begin with this text."),
    click.option(
        "--no-header", is_flag=True, help="The first line is data; the columns are column_1, ..."
    ),
    click.option("--root", metavar="FOLDER", help="Folder that must contain local images."),
)
source_options = option_group("source_values", source_values, *_source_options)
_columns_option = click.option(
    "--columns", metavar="A,B,...", callback=split_names, help="Source columns of the result."
)
_loader_option = click.option(
    "--loader",
    metavar="MODULE:FUNCTION",
    callback=allow_working_directory,
    help="Load images with this function instead of downloading them. It gets a row as a "
    "mapping and returns bytes, a PIL image or None.",
)
list_options = option_group(
    "list_options",
    _list_options,
    _columns_option,
    *(
        click.option(f"--{side}-id", metavar="COLUMN", help=f"--id of {side.upper()} only.")
        for side in ("left", "right")
    ),
    *(
        click.option(
            f"--{side}-url",
            metavar="COLUMN[,...]",
            callback=_split_columns,
            help=f"--url of {side.upper()} only.",
        )
        for side in ("left", "right")
    ),
    *_source_options,
    _loader_option,
)
single_list_options = option_group(
    "list_options", _single_list_options, _columns_option, *_source_options, _loader_option
)
