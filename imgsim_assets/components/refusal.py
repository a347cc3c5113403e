"""The refusal to compute from an asset whose blocking check failed, in whichever run that was.

Within a run, Dagster itself stops the assets behind a blocking check that failed.
"""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from imgsim_assets.components.markdown import unescape_markdown
from imgsim_assets.pipeline.check_names import (
    IDS_MATCH_EMBEDDINGS,
    IDS_UNIQUE,
    SELF_RECALL,
    SUCCESS_RATE,
    VECTORS_NORMALIZED,
)

# The checks that may block, by the last part of the asset's key.
_MAY_BLOCK = {
    "items": (IDS_UNIQUE,),
    "images": (SUCCESS_RATE,),
    "embeddings": (VECTORS_NORMALIZED,),
    "index": (IDS_MATCH_EMBEDDINGS, SELF_RECALL),
}


def refuse_failed_inputs(context: dg.AssetExecutionContext) -> None:
    """Fail the step if the last evaluation of a blocking check of an upstream asset failed.

    Raises:
        Failure: names the check, its problem and the fix.
    """
    selected = context.selected_asset_keys
    inputs = {key for each in selected for key in context.assets_def.asset_deps[each]} - selected
    for key in sorted(inputs):
        for evaluation in _failed(context.instance, key):
            problem = f": {unescape_markdown(evaluation.description or '')}".removesuffix(": ")
            name = key.to_user_string()
            raise dg.Failure(
                f"{name}: the blocking check {evaluation.check_name} failed{problem}. Fix that "
                f"and materialize {name} again; to compute from it nevertheless, let the check "
                "only warn (key checks), and materialize it again",
                allow_retries=False,
            )


def _failed(instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[dg.AssetCheckEvaluation]:
    for name in _MAY_BLOCK.get(key.path[-1], ()):
        record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(key, name))
        evaluation = record.evaluation if record is not None else None
        if (
            isinstance(evaluation, dg.AssetCheckEvaluation)
            and evaluation.blocking
            and not evaluation.passed
            and evaluation.severity == dg.AssetCheckSeverity.ERROR
        ):
            yield evaluation
