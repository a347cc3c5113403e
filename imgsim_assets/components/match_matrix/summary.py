"""The metadata of a match table: what is new, what is nearest to the threshold, and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.components import charts
from imgsim_assets.components.evidence import (
    describe_evidence,
    describe_method,
    describe_turned,
)
from imgsim_assets.components.left_out import describe_left_out
from imgsim_assets.components.metadata import linked_image, preview, svg, table_metadata, thumbnails
from imgsim_assets.components.thresholds import describe_threshold
from imgsim_assets.gallery.versions import keep_gallery
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.pairs import changes_since_last_version, with_titles
from imgsim_assets.similarity.candidates import best_candidates
from imgsim_assets.similarity.matches import MatchReport
from imgsim_assets.storage.changes import CHANGE

# With more pairs than this, the heat map of all cosines is not drawn.
_MAX_HEAT_MAP_PAIRS = 400
_SHOWN_PAIRS = 10
_SHOWN_NEW = 3
_VERSION = "version"
GALLERY = "gallery"
_COUNTS = {
    "added": "added_since_last_version",
    "changed": "changed_since_last_version",
    "removed": "removed_since_last_version",
}


def describe_matches(
    pipeline: MatchPipeline,
    report: MatchReport,
    rows: pl.DataFrame,
    last: Mapping[str, dg.MetadataValue],
) -> dict[str, Any]:
    """The metadata of a materialization, first what a person looks for.

    Args:
        pipeline: of the match table.
        report: of the run.
        rows: the matches.
        last: the metadata of the last materialization. Where the version is the same, so are its
            tables and images, and nothing is read for them.
    """
    store, name = pipeline.store, f"matches/{pipeline.table_name}"
    counts: dict[str, Any] = {
        **table_metadata(store, name, report, report.matches),
        **describe_threshold(report),
        "left_items": report.left_items,
        "right_items": report.right_items,
        "left_images": report.left_images,
        "right_images": report.right_images,
        "left_matched": report.left_matched,
        "right_matched": report.right_matched,
        **{f"judged_{verdict}": count for verdict, count in report.decisions.items()},
        **_judged(report),
    }
    run = {
        **describe_evidence(report.evidence),
        **describe_turned(report.turned),
        **describe_method(report.recall, report.exact_seconds),
        "incremental": report.incremental,
        "device": report.device,
        "seconds": round(report.seconds, 3),
        "encoder": report.encoder,
        "encoder_fingerprint": report.fingerprint,
    }
    if last.get(_VERSION) == dg.MetadataValue.int(report.version):
        kept = {key: value for key, value in last.items() if "/" not in key and key != GALLERY}
        return {**counts, **kept, **counts, **run}
    described = describe_left_out(store, report.left_out, report.shared, report.common)
    if report.reopened.height:
        described["reopened_decisions"] = preview(report.reopened, _SHOWN_PAIRS)
    return {**counts, **described, **_pairs(pipeline, report, rows), **run}


def gallery_metadata(pipeline: MatchPipeline, report: MatchReport) -> dict[str, dg.MetadataValue]:
    """The link to the page of the report's version, which is written if it is not there yet."""
    if not pipeline.settings.gallery:
        return {}
    url = keep_gallery(pipeline.store, pipeline.table.name, report.version)
    return {GALLERY: dg.MetadataValue.url(url)}


def _judged(report: MatchReport) -> dict[str, Any]:
    """What people's decisions measure: the precision of the matches, and the threshold."""
    described: dict[str, Any] = {}
    if (precision := report.precision) is not None:
        if precision.value is not None:
            described["precision"] = round(precision.value, 4)
        described |= {
            "precision_low": round(precision.low, 4),
            "precision_high": round(precision.high, 4),
            "precision_sample": precision.sampled,
            "precision_sample_unsure": precision.unsure,
        }
    if (decided := report.by_decisions) is not None:
        described |= {
            "threshold_low": decided.low,
            "threshold_high": decided.high,
            "threshold_judged_pairs": decided.pairs,
        }
    return described


def _pairs(pipeline: MatchPipeline, report: MatchReport, rows: pl.DataFrame) -> dict[str, Any]:
    store, settings = pipeline.store, pipeline.settings
    name = f"matches/{pipeline.table_name}"
    changes = changes_since_last_version(store, name, report.version)
    described: dict[str, Any] = {}
    new = rows.clear()
    if changes is not None:
        kinds = changes.rows[CHANGE]
        described |= {key: int((kinds == kind).sum()) for kind, key in _COUNTS.items()}
        best_first = changes.rows.filter(kinds == "added").sort(
            ["similarity", "left_id", "right_id"], descending=[True, False, False]
        )
        new = best_first.head(_SHOWN_PAIRS)
    for position, row in enumerate(new.head(_SHOWN_NEW).iter_rows(named=True), start=1):
        pair = [charts.thumbnail(store, row[f"{side}_sha256"]) for side in ("left", "right")]
        shown = thumbnails(pair, "left and right image of a new match")
        if shown is not None:
            described[f"new_match_{position}"] = shown
    nearest = rows.sort("similarity", "left_id", "right_id").head(_SHOWN_PAIRS)
    for key, pairs in (("new_matches", new), ("nearest_to_threshold", nearest)):
        if pairs.height:
            titled = with_titles(store, pairs, settings.left, settings.right)
            described[key] = preview(titled, _SHOWN_PAIRS)
    left, right = pipeline.compared()
    below = best_candidates(left, right, rows["left_id"])
    if below.height:
        titled = with_titles(store, below.head(_SHOWN_PAIRS), settings.left, settings.right)
        # With evidence, a candidate without it may be above the threshold.
        key = "best_below_threshold" if report.evidence is None else "best_without_evidence"
        described[key] = preview(titled, _SHOWN_PAIRS)
    if rows.height or below.height:
        described["similarity_histogram"] = svg(
            charts.similarity_histogram(rows["similarity"], report.threshold, below["similarity"]),
            "similarity of the matches",
        )
    if rows.height:
        sheet = charts.match_sheet(store, rows)
        described["contact_sheet"] = linked_image(store, name, report.version, "matches.jpg", sheet)
    if 0 < len(left) * len(right) <= _MAX_HEAT_MAP_PAIRS:
        drawing = charts.similarity_heat_map(left, right, report.threshold).encode()
        described["heat_map"] = linked_image(store, name, report.version, "heat_map.svg", drawing)
    return described
