"""The asset `encoder_evaluation` of a catalog that asks for one."""

import dagster as dg

from imgsim_assets.components.columns import ENCODER_EVALUATION, table_schema
from imgsim_assets.components.image_catalog.checks import THRESHOLD_CALIBRATED
from imgsim_assets.components.image_catalog.context import GPU_POOL, CatalogContext, code_version
from imgsim_assets.encoders.settings import EVALUATION_VERSION, EvaluationSettings


def evaluation_asset(
    blueprint: CatalogContext, settings: EvaluationSettings
) -> dg.AssetsDefinition:
    """How well the encoder does on this catalog's images, and at which threshold."""

    @dg.asset(
        **blueprint.basics("encoder_evaluation", ["parquet"]),
        deps=[dg.AssetDep(blueprint.key("embeddings"), partition_mapping=dg.AllPartitionMapping())],
        description=f"Recall of edited copies of {settings.sample} of the catalog's own images "
        "and false matches among different ones, by threshold; and the lowest threshold with at "
        f"most {settings.false_positives_per_million:g} false matches in a million pairs.",
        metadata={"dagster/column_schema": table_schema(ENCODER_EVALUATION)},
        code_version=code_version(EVALUATION_VERSION, settings.model_dump()),
        pool=GPU_POOL,
        check_specs=[
            blueprint.check(
                "encoder_evaluation",
                THRESHOLD_CALIBRATED,
                "The catalog is large enough to tell at which threshold at most "
                f"{settings.false_positives_per_million:g} of a million pairs of different images match.",
            )
        ],
    )
    def encoder_evaluation(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.components.image_catalog.report_steps import measure_encoder

        return measure_encoder(context, blueprint, settings)

    return encoder_evaluation
