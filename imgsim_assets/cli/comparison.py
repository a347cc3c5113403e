"""The shell options of what is compared: images of items, shared images, agreeing columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

import click
import polars as pl

from imgsim_assets.cli.options import option_group, parse_settings, split_names
from imgsim_assets.similarity.approximate.recall import Recall
from imgsim_assets.similarity.selection import IGNORED, NO_VALUE, describe_common_images
from imgsim_assets.similarity.settings import APPROXIMATE, EXACT, Compare, Method, PairSettings
from imgsim_assets.text import counted

P = TypeVar("P", bound=PairSettings)

_MAX_SHOWN = 3

comparison_options = option_group(
    "comparison",
    dict[str, Any],
    click.option(
        "--compare",
        default="any",
        show_default=True,
        metavar="|".join(get_args(Compare)),
        help="How items with several images are compared: by their best pair of images, by the "
        "first usable image, or by the mean of each left image's best.",
    ),
    click.option(
        "--max-shared",
        type=click.IntRange(min=0),
        default=20,
        show_default=True,
        help="Leave out images that more items of a list have, such as placeholders; 0 for none.",
    ),
    click.option(
        "--ignore",
        metavar="FILE",
        callback=lambda _, __, file: {"list": file} if file else None,
        help="Leave out the images that a list names by sha256 or path, and what is as near to "
        "them.",
    ),
    click.option(
        "--within",
        metavar="A,B,...",
        callback=split_names,
        help="Compare only items that agree in these columns.",
    ),
    click.option(
        "--method",
        metavar="|".join(get_args(Method)),
        help="exact: compare every pair of images; approximate: only pairs in near lists, for "
        "hundreds of thousands of images.  [default: exact]",
    ),
    click.option(
        "--min-recall",
        type=float,
        help="Fraction of the exact pairs that --method approximate finds at least, as measured "
        "on a sample.  [default: 0.98]",
    ),
    click.option(
        "--orientations",
        is_flag=True,
        help="Also compare images rotated by quarter turns and mirrored: of LEFT, in a graph and "
        "in groups of CATALOG. Encodes each of them seven times more.",
    ),
)


def parse_pair_settings(kind: type[P], comparison: Mapping[str, Any], **values: Any) -> P:
    """Validate these and other options as settings.

    Raises:
        click.UsageError: A value is not valid. The message names the option.
    """
    unlimited = comparison["max_shared"] == 0
    given = {key: value for key, value in comparison.items() if key != "max_shared" or value}
    settings = parse_settings(kind, **given, **values)
    return settings.model_copy(update={"max_shared": None}) if unlimited else settings


def shared_lines(shared: pl.DataFrame, titles: Mapping[str, str]) -> Iterator[str]:
    """The images that too many items have, with the title of their catalog."""
    rows = shared.select("catalog", "sha256", "items").head(_MAX_SHOWN)
    for catalog, sha256, items in rows.iter_rows():
        of = f"{counted(items, 'item')} of {titles.get(catalog, catalog)}"
        yield f"  left out: image {sha256} of {of}"
    if shared.height > _MAX_SHOWN:
        yield f"  left out: {shared.height - _MAX_SHOWN} more images of many items"
    if shared.height:
        yield "  to compare them, set --max-shared 0"


def left_out_lines(
    left_out: Mapping[str, int], shared: pl.DataFrame, titles: Mapping[str, str]
) -> Iterator[str]:
    """What a person is told of images that are not compared: counts by reason, and shared ones."""
    yield from shared_lines(shared, titles)
    if IGNORED in left_out:
        images = counted(left_out[IGNORED], "image")
        yield f"  left out: {images} that --ignore names or that are as near"
    if NO_VALUE in left_out:
        images = counted(left_out[NO_VALUE], "image")
        yield f"  left out: {images} of items without a value of --within"


def turned_lines(turned: int | None) -> list[str]:
    """What a person is told of images that were encoded in other orientations."""
    return [f"  {counted(turned, 'image')} encoded in seven other orientations"] if turned else []


def recall_lines(recall: Recall | None) -> list[str]:
    """What a person is told of an approximate result."""
    if recall is None:
        return []
    images = counted(recall.rows, "sampled image")
    if not recall.pairs:
        return [
            f"  {APPROXIMATE}: the exact result has no pair of {images}, so no recall is measured"
        ]
    return [
        f"  {APPROXIMATE}: {recall.found:,} of {counted(recall.pairs, 'exact pair')} of {images} "
        f"found, recall {recall.value:.3f}"
    ]


def recall_document(recall: Recall | None) -> dict[str, str | float | None]:
    """The method and the recall in JSON; null of an exact result, and where none was measurable."""
    if recall is None:
        return {"method": EXACT, "recall": None}
    return {"method": APPROXIMATE, "recall": recall.value}


def common_lines(common: pl.DataFrame) -> list[str]:
    """What a person is told of compared images that most items have."""
    lines = describe_common_images(common, "--max-shared", _MAX_SHOWN)
    return [f"  warning: {lines[0]}", *(f"  {line}" for line in lines[1:])] if lines else []
