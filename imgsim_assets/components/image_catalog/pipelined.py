"""The assets `images` and `embeddings` of a pipelined catalog: one step for both."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from imgsim_assets.components.asset_kwargs import GPU_POOL
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.image_catalog.embeddings import (
    embed,
    embeddings_kwargs,
    vectors_spec,
)
from imgsim_assets.components.image_catalog.images import (
    ImagesConfig,
    fetch,
    images_kwargs,
    success_rate_spec,
)
from imgsim_assets.components.refusal import refuse_failed_inputs
from imgsim_assets.components.retries import RETRY_POLICY, retry_faults
from imgsim_assets.components.shard_runs import waits_in_place
from imgsim_assets.components.store.resource import IO_MANAGER, STORE
from imgsim_assets.progress import printable_log

if TYPE_CHECKING:
    from imgsim_assets.encoders.stage import EmbeddingStage


def pipelined_assets(catalog: CatalogContext) -> dg.AssetsDefinition:
    """Both assets as one step, which embeds fetched images while it fetches others.

    A run may still select one of them alone. Each asset is recorded when it is complete, with
    the metadata, versions and checks that it has otherwise. When embedding fails, the images
    stay materialized. When the blocking check of the images fails, nothing is embedded.
    """
    specs = [
        dg.AssetSpec(**kwargs, partitions_def=catalog.partitions).with_io_manager_key(IO_MANAGER)
        for kwargs in (images_kwargs(catalog), embeddings_kwargs(catalog))
    ]

    @dg.multi_asset(
        name=f"{catalog.name}__images_and_embeddings",
        specs=specs,
        check_specs=[success_rate_spec(catalog), vectors_spec(catalog)],
        can_subset=True,
        backfill_policy=catalog.backfill_policy,
        # Dagster gives a step one pool, and a card is harder to share than the network.
        pool=GPU_POOL,
        required_resource_keys={STORE},
        retry_policy=RETRY_POLICY,
    )
    @retry_faults
    def images_and_embeddings(
        context: dg.AssetExecutionContext, config: ImagesConfig
    ) -> Iterator[dg.MaterializeResult]:
        refuse_failed_inputs(context)
        yield from _fetch_and_embed(context, catalog, config)

    return images_and_embeddings


def _fetch_and_embed(
    context: dg.AssetExecutionContext, catalog: CatalogContext, config: ImagesConfig
) -> Iterator[dg.MaterializeResult]:
    from imgsim_assets.encoders.stream import EmbeddingStream, EmbeddingThread

    images, embeddings = catalog.key("images"), catalog.key("embeddings")
    selected = context.selected_asset_keys
    pipeline = catalog.pipeline(context, retry=config.retry.value, wait=waits_in_place(context))
    thread = EmbeddingThread()
    with thread:

        def open_embeddings() -> "EmbeddingStage":
            catalog.require_weights()
            return pipeline.open_embeddings(thread)

        stream = EmbeddingStream(open_embeddings, thread, log=printable_log(context.log.warning))
        if images in selected:
            embedding_stream = stream if embeddings in selected else None
            check = fetch(context, catalog, pipeline, embedding_stream)
            yield _result(context, images, check)
            if not check.passed and success_rate_spec(catalog).blocking:
                thread.cancel()
                return
        if embeddings in selected:
            yield _result(context, embeddings, embed(context, catalog, pipeline, stream))


def _result(
    context: dg.AssetExecutionContext, key: dg.AssetKey, check: dg.AssetCheckResult
) -> dg.MaterializeResult:
    """An asset's materialization, with its check where the run selects it."""
    names = {handle.name for handle in context.selected_asset_check_keys if handle.asset_key == key}
    checks = [check] if check.check_name in names else []
    return dg.MaterializeResult(asset_key=key, check_results=checks)
