"""`imgsim recommend-threshold`: a similarity threshold, measured on the stored images."""

from __future__ import annotations

from collections.abc import Iterator

import click
import polars as pl

from imgsim_assets.cli import options, output
from imgsim_assets.cli.catalog_argument import require_catalogs
from imgsim_assets.cli.terminal import echo
from imgsim_assets.encoders.recorded import (
    encoder_from_commit,
    require_named_factory,
    require_named_program,
    require_same_encoder,
    with_overrides,
)
from imgsim_assets.encoders.settings import EvaluationSettings
from imgsim_assets.encoders.table import latest_embeddings
from imgsim_assets.evaluation.recommendation import ThresholdRecommendation, recommend_threshold
from imgsim_assets.index.stage import embedded_images
from imgsim_assets.progress import silent
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

# Shown beside the recommended one; dense where encoders differ most.
_SHOWN_THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.875, 0.9, 0.925, 0.95, 0.975, 0.99)


@click.command(
    epilog="""\b
Examples:
  imgsim recommend-threshold products
  imgsim recommend-threshold products suppliers --false-matches 0.5%
"""
)
@click.argument("catalog")
@click.argument("other", required=False)
@options.false_matches_option
@click.option(
    "--evidence",
    is_flag=True,
    help="Compare the most similar items a second time: those whose images align are no false "
    "matches. Needs the extra [evidence].",
)
@options.encoder_override_options
@options.store_option
@options.json_option
@options.quiet_option
def command(
    catalog: str,
    other: str | None,
    false_matches: str | None,
    evidence: bool,
    device: str | None,
    weights: str | None,
    factory: str | None,
    store: Store,
    as_json: bool,
    quiet: bool,
) -> None:
    """Recommend a similarity threshold for CATALOG, or for matching it with OTHER.

    The command edits images of the catalog (crop, watermark, recompress, ...) and compares them
    with their originals, and it compares all items with one another. It saves the measurements as
    the catalog's encoder_evaluation, and the threshold, which `imgsim match --threshold auto` uses.
    """
    budget = options.parse_settings(EvaluationSettings, false_matches=false_matches).false_matches
    log = silent if quiet or as_json else output.log_to_stderr
    names = dict.fromkeys(name for name in (catalog, other) if name is not None)
    require_catalogs(store, *names)
    embeddings = [(name, latest_embeddings(store, name)) for name in names]
    require_same_encoder(embeddings)
    encoders = {
        name: with_overrides(encoder_from_commit(commit), device, weights)
        for name, commit in embeddings
    }
    for name, encoder in encoders.items():
        require_named_factory(encoder, factory, f"the vectors of {name}")
        require_named_program(encoder, weights, f"the vectors of {name}")
    searched = embedded_images(store, other)[1]["id"].n_unique() if other is not None else None
    recommendations = [
        recommend_threshold(
            store, name, budget, encoder, searched=searched, evidence=evidence, log=log
        )
        for name, encoder in encoders.items()
    ]
    strictest = max(each.threshold for each in recommendations)
    if as_json:
        output.show_json(
            {
                "threshold": strictest,
                "false_matches": budget,
                "catalogs": recommendations,
            }
        )
        return
    for recommendation in recommendations:
        _show(recommendation)
    if len(recommendations) > 1:
        echo(f"\nto match {' with '.join(names)}: {strictest:g}, the stricter of the two")


def _show(recommendation: ThresholdRecommendation) -> None:
    items = counted(recommendation.items, "item")
    echo(f"\n{recommendation.catalog}: {items} by {recommendation.encoder}")
    output.show_frame(_formatted(recommendation.near(_SHOWN_THRESHOLDS)))
    low, high = recommendation.interval
    interval = f"(between {low:g} and {high:g} in 90 % of the resamples of the catalog)"
    if recommendation.threshold == recommendation.measured_threshold:
        echo(f"threshold {recommendation.threshold:g} {interval}")
    else:
        echo(f"threshold {recommendation.threshold:g}")
        measured = f"{recommendation.measured_threshold:g} {interval}"
        echo(f"  measured on the catalog: {measured}, not used, since it is too small")
    echo(f"  {recommendation.source}; copies found:")
    recall = (f"{edit} {share:.0%}" for edit, share in recommendation.recall.items())
    echo(f"  {', '.join(recall)}")


def _formatted(operating_points: pl.DataFrame) -> pl.DataFrame:
    """The table to print, with as many digits as the sample supports."""
    rows: Iterator[tuple[str, ...]] = (
        (f"{threshold:g}", f"{recall:.1%}", f"{false_best:.2%}", f"{per_million:.0f}")
        for threshold, recall, false_best, per_million in operating_points.iter_rows()
    )
    columns = ["threshold", "copies found", "items with a false best", "false per million pairs"]
    return pl.DataFrame(list(rows), schema=columns, orient="row")
