"""The assets `images` and `embeddings` of a catalog that streams: one step for both."""

from collections.abc import Iterator

import dagster as dg

from imgsim_assets.components.image_catalog.checks import success_rate_spec, vectors_spec
from imgsim_assets.components.image_catalog.context import NETWORK_POOL, CatalogContext
from imgsim_assets.components.image_catalog.embeddings import embeddings_facts
from imgsim_assets.components.image_catalog.images import ImagesConfig, images_facts


def streamed_assets(blueprint: CatalogContext) -> dg.AssetsDefinition:
    """Both assets as one step, which embeds what has been fetched while it fetches on.

    A run may still take one of them alone. Each is recorded when it is complete, with the
    metadata, versions and checks that it has otherwise: a failure to embed leaves the images
    materialized, and too few images, where that stops what hangs on them, the embeddings not.
    """
    specs = [
        dg.AssetSpec(**facts, partitions_def=blueprint.partitions)
        for facts in (images_facts(blueprint), embeddings_facts(blueprint))
    ]

    @dg.multi_asset(
        name=f"{blueprint.name}__images_and_embeddings",
        specs=specs,
        check_specs=[success_rate_spec(blueprint), vectors_spec(blueprint)],
        can_subset=True,
        backfill_policy=blueprint.backfill_policy,
        pool=NETWORK_POOL,
    )
    def images_and_embeddings(
        context: dg.AssetExecutionContext, config: ImagesConfig
    ) -> Iterator[dg.MaterializeResult]:
        from imgsim_assets.components.image_catalog.streamed_steps import fetch_and_embed

        yield from fetch_and_embed(context, blueprint, config.retry.value)

    return images_and_embeddings
