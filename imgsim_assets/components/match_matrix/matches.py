"""The asset `matches/<name>` of a pair of catalogs."""

from collections.abc import Sequence

import dagster as dg

from imgsim_assets.components.automation import on_new_data, tagged
from imgsim_assets.components.columns import MATCHES, table_schema
from imgsim_assets.components.image_catalog.checks import current_index_spec, drift_spec
from imgsim_assets.components.image_catalog.context import code_version
from imgsim_assets.components.project import Project
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.similarity.settings import MatchSettings

VERSION = "1"
GROUP = "matches"


def match_asset(
    settings: MatchMatrixSettings, project: Project, reports: Sequence[str] = ()
) -> dg.AssetsDefinition:
    """The match table of a left and a right catalog.

    `reports` are the catalogs whose encoder_evaluation decides the threshold.
    """
    key = dg.AssetKey(["matches", settings.name])
    left = dg.AssetKey([settings.left, "embeddings"])
    right = dg.AssetKey([settings.right, "index"])
    wanted = MatchSettings(threshold=settings.threshold, mode=settings.mode, k=settings.k)

    @dg.asset(
        key=key,
        group_name=GROUP,
        owners=list(settings.owners),
        tags=tagged(settings.tags, automated=settings.automation),
        automation_condition=on_new_data() if settings.automation else None,
        kinds={"faiss", "parquet"},
        deps=[
            dg.AssetDep(left, partition_mapping=dg.AllPartitionMapping()),
            right,
            *(dg.AssetKey([name, "encoder_evaluation"]) for name in reports),
        ],
        description=settings.description or _description(settings),
        metadata={"dagster/column_schema": table_schema(MATCHES)},
        code_version=code_version(VERSION, settings.left, settings.right, wanted.model_dump()),
        check_specs=[
            dg.AssetCheckSpec(
                "at_or_above_threshold", asset=key, description="No match is below the threshold."
            ),
            drift_spec(key, settings.checks),
            current_index_spec(key, settings.right),
            dg.AssetCheckSpec(
                "agrees_with_brute_force",
                asset=key,
                description="For sampled left items the matches are those of a plain product of "
                "all vectors: none missing, none false.",
            ),
        ],
    )
    def matches(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.components.match_matrix.match_steps import match_items

        return match_items(context, project, settings, wanted)

    return matches


def _description(settings: MatchMatrixSettings) -> str:
    asked = {
        "all": f"Every pair of an item of {settings.left} and one of {settings.right}",
        "best": f"For each item of {settings.left} the best item of {settings.right}",
        "top_k": f"For each item of {settings.left} the {settings.k} best of {settings.right}",
        "one_to_one": f"Pairs of items of {settings.left} and {settings.right}, of no item more "
        "than one, of the greatest total similarity",
        "mutual": f"Pairs of items of {settings.left} and {settings.right} that are each other's "
        "best",
    }[settings.mode]
    return f"{asked}, where the images are similar enough."
