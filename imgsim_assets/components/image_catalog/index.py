"""The assets `index` and `similarity_graph` of a catalog."""

import dagster as dg

from imgsim_assets.components.columns import GRAPH, table_schema
from imgsim_assets.components.image_catalog.checks import drift_spec
from imgsim_assets.components.image_catalog.context import CatalogContext, code_version

INDEX_VERSION = "1"
GRAPH_VERSION = "1"


def index_asset(blueprint: CatalogContext) -> dg.AssetsDefinition:
    """The persisted FAISS index."""
    settings = blueprint.settings.index

    @dg.asset(
        **blueprint.basics("index", ["faiss"]),
        deps=[dg.AssetDep(blueprint.key("embeddings"), partition_mapping=dg.AllPartitionMapping())],
        description=f"A FAISS index ({settings.kind}) of every item with a vector, with its table "
        "of ids. Items are added and removed as the embeddings change.",
        code_version=code_version(INDEX_VERSION, settings.model_dump(exclude={"min_recall"})),
        freshness_policy=blueprint.freshness,
        check_specs=[
            blueprint.check("index", "ids_match_embeddings", "Index and embeddings agree."),
            blueprint.check("index", "self_recall", "Sampled vectors find their own item."),
            blueprint.check(
                "index",
                "recall_at_10",
                f"A search finds {settings.min_recall:.0%} of the 10 nearest of sampled items.",
            ),
        ],
    )
    def index(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.components.image_catalog.index_steps import index_vectors

        return index_vectors(context, blueprint)

    return index


def graph_asset(blueprint: CatalogContext) -> dg.AssetsDefinition:
    """The edges from every item to its nearest neighbors."""
    settings = blueprint.settings

    @dg.asset(
        **blueprint.basics("similarity_graph", ["faiss", "parquet"]),
        deps=[blueprint.key("index"), *blueprint.advice(settings.graph.threshold)],
        description=f"Edges from every item to its {settings.graph.k} most similar others.",
        metadata={"dagster/column_schema": table_schema(GRAPH)},
        code_version=code_version(GRAPH_VERSION, settings.graph.model_dump()),
        freshness_policy=blueprint.freshness,
        check_specs=[
            blueprint.check(
                "similarity_graph",
                "agrees_with_brute_force",
                "For sampled items the edges are those of a plain product of all vectors.",
            ),
            drift_spec(blueprint.key("similarity_graph"), settings.checks),
        ],
    )
    def similarity_graph(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.components.image_catalog.index_steps import link_neighbors

        return link_neighbors(context, blueprint)

    return similarity_graph
