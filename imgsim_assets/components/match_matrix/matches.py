"""The asset `matches/<name>`: the match table of a left and a right catalog."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from imgsim_assets.components.asset_kwargs import (
    CPU_POOL,
    GPU_POOL,
    STEP_KWARGS,
    asset_kwargs,
    code_version,
)
from imgsim_assets.components.audits import audit_check
from imgsim_assets.components.checks import (
    asset_check,
    current_index_spec,
    drift_spec,
    invariant_results,
    invariant_spec,
    recall_results,
    recall_specs,
)
from imgsim_assets.components.columns import EVIDENCE, MATCHES, ORIENTATION, table_schema
from imgsim_assets.components.export import export_table
from imgsim_assets.components.lineage import column_lineage, match_lineage
from imgsim_assets.components.refusal import refuse_failed_inputs
from imgsim_assets.components.retries import retry_faults
from imgsim_assets.components.reviews import DeclaredReviews
from imgsim_assets.components.store.resource import TABLE_ASSET, open_store
from imgsim_assets.components.thresholds import threshold_hint
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.pipeline.check_names import (
    AGREES_WITH_BRUTE_FORCE,
    AT_OR_ABOVE_THRESHOLD,
    INDEX_IS_CURRENT,
    SIMILARITY_DRIFT,
)
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.similarity.settings import MatchSettings

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.pipeline.check_result import CheckResult
    from imgsim_assets.pipeline.match import MatchPipeline
    from imgsim_assets.similarity.matches import MatchReport
    from imgsim_assets.storage.store import Store

VERSION = "1"
GROUP = "matches"


def matches_asset(
    settings: MatchMatrixSettings,
    asset_key: Callable[..., dg.AssetKey],
    evaluated: Sequence[str] = (),
    root: Path = Path(),
    inputs: Sequence[dg.AssetKey] = (),
    encoders: Mapping[str, EncoderSettings] | None = None,
    reviews: DeclaredReviews | None = None,
) -> dg.AssetsDefinition:
    """The match table of a left and a right catalog.

    Args:
        settings: the match table as declared.
        asset_key: the key, in the project, of an asset of a catalog or of this component.
        evaluated: the catalogs whose encoder_evaluation decides the threshold.
        root: the project's root, from which relative paths of the export and of images start.
        inputs: the keys of the ignore list and the decisions, where they are declared.
        encoders: of the catalogs, for orientations.
        reviews: the declared file of decisions; None without one.
    """
    key = asset_key("matches", settings.name)
    left = asset_key(settings.left, "embeddings")
    right = asset_key(settings.right, "index")
    within = settings.within
    columns = MATCHES | (ORIENTATION if settings.orientations else {})
    columns |= EVIDENCE if settings.evidence.compute else {}
    match_settings = settings.model_dump(include=set(MatchSettings.model_fields))
    # A page that is asked for later is written without another change.
    match_settings |= {"gallery": True} if settings.gallery else {}

    @dg.asset(
        **asset_kwargs(key, GROUP, settings, {"faiss", "parquet"}),
        **TABLE_ASSET,
        **STEP_KWARGS,
        pool=GPU_POOL if settings.orientations else CPU_POOL,
        deps=[
            dg.AssetDep(left, partition_mapping=dg.AllPartitionMapping()),
            right,
            *(asset_key(name, "items") for name in (settings.left, settings.right) if within),
            *inputs,
            *(asset_key(name, "encoder_evaluation") for name in evaluated),
        ],
        description=settings.description or _description(settings),
        metadata={"dagster/column_schema": table_schema(columns)},
        code_version=code_version(VERSION, settings.left, settings.right, match_settings),
        check_specs=[
            invariant_spec(
                key,
                AT_OR_ABOVE_THRESHOLD,
                "No match is below the threshold, but those that a person decided.",
                settings.checks,
            ),
            drift_spec(key, settings.checks),
            current_index_spec(key, settings.right),
            *recall_specs(key, settings, settings.checks),
        ],
    )
    @retry_faults
    def matches(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.components.match_matrix.summary import (
            describe_matches,
            gallery_metadata,
        )
        from imgsim_assets.components.metadata import last_metadata
        from imgsim_assets.pipeline.match import MatchPipeline

        refuse_failed_inputs(context)
        pipeline = MatchPipeline(
            open_store(context), settings, root=root, encoders=encoders, log=context.log.info
        )
        if reviews is not None:
            reviews.import_file(pipeline.store, context.log)
        report = pipeline.run()
        rows = pipeline.rows(report)
        results = _check(pipeline, report, rows)
        name = f"matches/{pipeline.table_name}"
        exported = export_table(
            pipeline.store, name, report.version, settings.export, root, results
        )
        return dg.MaterializeResult(
            metadata=describe_matches(pipeline, report, rows, last_metadata(context))
            | exported
            | gallery_metadata(pipeline, report)
            | column_lineage(match_lineage(left, right)),
            data_version=dg.DataVersion(report.data_version),
            check_results=results,
        )

    return matches


def matches_audit(
    settings: MatchMatrixSettings, asset_key: Callable[..., dg.AssetKey]
) -> dg.AssetChecksDefinition:
    """The matches of sampled items equal those of a brute-force product."""

    def evaluate(store: "Store") -> "CheckResult":
        from imgsim_assets.pipeline import checks
        from imgsim_assets.similarity.audit import audit_matches

        audit = audit_matches(store, settings.name, sample=settings.checks.sample_size)
        return checks.agrees_with_brute_force(audit)

    return audit_check(
        AGREES_WITH_BRUTE_FORCE,
        asset_key("matches", settings.name),
        "The matches of sampled items equal those of a brute-force product of all vectors: none "
        "missing, none false.",
        settings.checks,
        evaluate,
    )


def _description(settings: MatchMatrixSettings) -> str:
    left, right = settings.left, settings.right
    pairs = {
        "all": f"Every pair of an item of {left} and one of {right}",
        "best": f"For each item of {left} the best item of {right}",
        "top_k": f"For each item of {left} the {settings.k} best of {right}",
        "one_to_one": f"Pairs of items of {left} and {right}, each item in at most one pair, with "
        "the greatest total similarity",
        "mutual": f"Pairs of items of {left} and {right} that are each other's best",
    }[settings.mode]
    return f"{pairs}, where the images are similar enough."


def _check(
    pipeline: "MatchPipeline", report: "MatchReport", rows: "pl.DataFrame"
) -> list[dg.AssetCheckResult]:
    from imgsim_assets.pipeline import checks

    store, settings, limits = pipeline.store, pipeline.settings, pipeline.settings.checks
    version = pipeline.table.at(report.version)
    drift = checks.similarity_drift(pipeline.table, version, limits.max_drift)
    current = checks.ids_match_embeddings(store, settings.right)
    return [
        *invariant_results(
            {AT_OR_ABOVE_THRESHOLD: checks.at_or_above_threshold(rows, report.threshold)},
            limits,
            hint=threshold_hint(report),
        ),
        asset_check(SIMILARITY_DRIFT, drift, severity=limits.severity),
        asset_check(INDEX_IS_CURRENT, current, severity=limits.severity),
        *recall_results(version, settings, limits),
    ]
