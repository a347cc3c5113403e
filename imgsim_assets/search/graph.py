"""A similarity graph in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

# The columns of an edge by those of a query.
EDGE_COLUMNS = {
    "query_label": "__src_id",
    "query_image": "__src_image",
    "reference_label": "__dst_id",
    "reference_image": "__dst_image",
}


@dataclass(frozen=True)
class SimilarityGraph:
    """Items and directed edges to their nearest neighbors.

    Attributes:
        vertices: the column `__id`, the labels.
        edges: `__src_id`, `__dst_id`, `distance` (Float64) and `rank` (Int32, from 1), sorted by
            the order of the vertices and rank. Where items have several images, `__src_image` and
            `__dst_image` (Int32) are the numbers of the nearest ones.
    """

    vertices: pl.DataFrame
    edges: pl.DataFrame

    def to_networkx(self) -> Any:
        """The graph as a networkx.DiGraph; edges have `distance`, `rank` and image numbers.

        Needs the package `networkx`.
        """
        import networkx

        graph = networkx.DiGraph()
        graph.add_nodes_from(self.vertices["__id"].to_list())
        for edge in self.edges.iter_rows(named=True):
            source, target = edge.pop("__src_id"), edge.pop("__dst_id")
            graph.add_edge(
                source, target, **{name.removeprefix("__"): value for name, value in edge.items()}
            )
        return graph
