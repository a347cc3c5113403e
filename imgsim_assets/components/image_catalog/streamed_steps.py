"""What a run does for a catalog that streams: embed on the heels of the download."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from imgsim_assets.components.image_catalog.checks import success_rate_spec
from imgsim_assets.components.image_catalog.context import GPU_POOL, CatalogContext
from imgsim_assets.components.image_catalog.embedding_steps import (
    publish_embeddings,
    vectors_normalized,
)
from imgsim_assets.components.image_catalog.image_steps import (
    images_stage,
    publish_images,
    success_rate,
)
from imgsim_assets.components.pools import PoolSlot
from imgsim_assets.components.shard_runs import run_shards
from imgsim_assets.download.settings import Retry
from imgsim_assets.download.stage import DownloadReport
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.stream import EmbeddingStream, EmbeddingThread
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store


def fetch_and_embed(
    context: dg.AssetExecutionContext, blueprint: CatalogContext, retry: Retry
) -> Iterator[dg.MaterializeResult]:
    """Fetch and embed the run's shards; each of the two assets as soon as it is complete."""
    store = blueprint.project.store(context.run.run_id)
    wanted = context.selected_asset_keys
    thread = EmbeddingThread()
    with PoolSlot(context, GPU_POOL, thread.stop) as card, thread:
        stream = EmbeddingStream(
            lambda: EmbeddingStage(
                store,
                blueprint.name,
                blueprint.encoder,
                log=context.log.info,
                on_start=card.claim,
                stop=thread.stop,
            ),
            thread,
            log=context.log.warning,
        )
        if blueprint.key("images") in wanted:
            follower = stream if blueprint.key("embeddings") in wanted else None
            check = _fetch(context, blueprint, store, retry, follower)
            yield _result(context, blueprint.key("images"), check)
            if not check.passed and success_rate_spec(blueprint).blocking:
                thread.cancel()
                return
        if blueprint.key("embeddings") in wanted:
            check = _embed(context, blueprint, store, stream)
            yield _result(context, blueprint.key("embeddings"), check)


def _fetch(
    context: dg.AssetExecutionContext,
    blueprint: CatalogContext,
    store: Store,
    retry: Retry,
    follower: EmbeddingStream | None,
) -> dg.AssetCheckResult:
    """Fetch the shards, with the stream on the heels of what is committed."""
    on_commit = follower.notify if follower is not None else None
    with images_stage(context, blueprint, store, retry, on_commit=on_commit) as stage:

        def fetch(shard: Shard) -> DownloadReport:
            report = stage.run(shard)
            if on_commit is not None and report.changed:
                on_commit(shard)
            return report

        outcome = run_shards(context, blueprint.settings.shards, fetch)
    publish_images(context, blueprint, store, outcome)
    return success_rate(store, blueprint.settings)


def _embed(
    context: dg.AssetExecutionContext,
    blueprint: CatalogContext,
    store: Store,
    stream: EmbeddingStream,
) -> dg.AssetCheckResult:
    """Embed what is left of the shards, and commit their embeddings."""
    outcome = run_shards(
        context, blueprint.settings.shards, lambda shard: stream.finalize(shard).result()
    )
    publish_embeddings(context, blueprint, store, outcome)
    return vectors_normalized(store, blueprint.settings, stream.stage.fingerprint)


def _result(
    context: dg.AssetExecutionContext, key: dg.AssetKey, check: dg.AssetCheckResult
) -> dg.MaterializeResult:
    """An asset's materialization, with its check where the run asks for it."""
    names = {each.name for each in context.selected_asset_check_keys if each.asset_key == key}
    checks = [check] if check.check_name in names else []
    return dg.MaterializeResult(asset_key=key, check_results=checks)
