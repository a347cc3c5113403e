"""The asset `encoder_report` of a catalogue that asks for one."""

import dagster as dg

from imgsim_assets.components.blueprint import GPU_POOL, Blueprint, code_version
from imgsim_assets.components.check_specs import THRESHOLD_IS_MEASURED
from imgsim_assets.components.columns import ENCODER_REPORT, table_schema
from imgsim_assets.encoders.report_settings import REPORT_VERSION, ReportSettings


def report_asset(blueprint: Blueprint, settings: ReportSettings) -> dg.AssetsDefinition:
    """How well the encoder does on this catalogue's pictures, and at which threshold."""

    @dg.asset(
        **blueprint.basics("encoder_report", ["parquet"]),
        deps=[dg.AssetDep(blueprint.key("embeddings"), partition_mapping=dg.AllPartitionMapping())],
        description=f"Recall of edited copies of {settings.sample} of the catalogue's own pictures "
        "and false matches among different ones, by threshold; and the lowest threshold with at "
        f"most {settings.false_per_million:g} false matches in a million pairs.",
        metadata={"dagster/column_schema": table_schema(ENCODER_REPORT)},
        code_version=code_version(REPORT_VERSION, settings.model_dump()),
        pool=GPU_POOL,
        check_specs=[
            blueprint.check(
                "encoder_report",
                THRESHOLD_IS_MEASURED,
                "The catalogue is large enough to tell at which threshold at most "
                f"{settings.false_per_million:g} of a million pairs of different pictures match.",
            )
        ],
    )
    def encoder_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.components.report_steps import measure_encoder

        return measure_encoder(context, blueprint, settings)

    return encoder_report
