"""`imgsim recommend-threshold`: which threshold to choose, measured on the stored images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import polars as pl

from imgsim_assets.cli import output
from imgsim_assets.cli.options import (
    encoder_override_options,
    json_option,
    quiet_option,
    store_option,
)
from imgsim_assets.encoders.evaluation import recorded_encoder
from imgsim_assets.encoders.recorded import elsewhere
from imgsim_assets.encoders.threshold import ThresholdRecommendation, advise, require_same_encoders
from imgsim_assets.progress import silent
from imgsim_assets.storage.store import Store

# Beside the advised one; close together where encoders differ most.
_SHOWN = (0.7, 0.75, 0.8, 0.85, 0.875, 0.9, 0.925, 0.95, 0.975, 0.99)


@click.command(
    epilog="""\b
Examples:
  imgsim recommend-threshold products
  imgsim recommend-threshold products suppliers --false-positives-per-million 10
"""
)
@click.argument("catalog")
@click.argument("other", required=False)
@click.option(
    "--false-positives-per-million",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Most false matches among a million pairs of different images.",
)
@encoder_override_options
@store_option
@json_option
@quiet_option
def command(
    catalog: str,
    other: str | None,
    false_positives_per_million: float,
    device: str | None,
    weights: str | None,
    store_url: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Advise on a threshold for CATALOG, or for matching it with OTHER.

    Images of the catalog are edited as shops and re-uploaders do, and compared with their
    originals; pairs of different images are compared with each other. What was measured is
    kept as the catalog's encoder_evaluation, and `match --threshold auto` goes by that, with the
    report's own budget: the declared one, else 100.
    """
    store = Store.open(store_url)
    log = silent if quiet or as_json else output.note
    names = dict.fromkeys(name for name in (catalog, other) if name is not None)
    encoders = [elsewhere(recorded_encoder(store, name), device, weights) for name in names]
    advices = [
        advise(store, name, false_positives_per_million, encoder, log=log)
        for name, encoder in zip(names, encoders, strict=True)
    ]
    require_same_encoders(advices)
    strictest = max(advice.threshold for advice in advices)
    if as_json:
        output.show_json(_document(advices, strictest, false_positives_per_million))
        return
    for advice in advices:
        _tell(advice, false_positives_per_million)
    if len(advices) > 1:
        click.echo(f"\nto match {' with '.join(names)}: {strictest:g}, the stricter of the two")


def _document(
    advices: Sequence[ThresholdRecommendation], threshold: float, false_positives_per_million: float
) -> dict[str, Any]:
    return {
        "threshold": threshold,
        "max_false_positives_per_million": false_positives_per_million,
        "catalogs": advices,
    }


def _tell(advice: ThresholdRecommendation, false_positives_per_million: float) -> None:
    click.echo(
        f"\n{advice.catalog}: {advice.images} images by {advice.encoder}, {advice.pairs} "
        "pairs of different ones"
    )
    output.show_frame(_readable(advice.around(_SHOWN)))
    budget = f"{false_positives_per_million:g} false matches in a million pairs"
    if advice.is_measured:
        click.echo(f"{advice.threshold:g} is the lowest threshold within {budget}; it finds")
    else:
        click.echo(
            f"too few pairs to be sure of at most {budget}: {advice.threshold:g} is the "
            "encoder's own threshold; it finds"
        )
    shares = (f"{edit} {share:.0%}" for edit, share in advice.recall.items())
    click.echo(f"  {', '.join(shares)}")


def _readable(choices: pl.DataFrame) -> pl.DataFrame:
    """The rows of a table for people, with as many digits as the sample is good for."""
    return pl.DataFrame(
        [
            (f"{threshold:g}", f"{recall:.1%}", f"{false:.0f}", f"{certain:.0f}")
            for threshold, recall, false, certain in choices.iter_rows()
        ],
        schema=["threshold", "copies found", "false per million", "with one more"],
        orient="row",
    )
