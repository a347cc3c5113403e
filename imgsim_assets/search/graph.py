"""A similarity graph in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class SimilarityGraph:
    """Items and directed edges to their nearest neighbors.

    Attributes:
        vertices: the column `__id`, the labels.
        edges: `__src_id`, `__dst_id`, `distance` (Float64) and `rank` (Int32, from 1), sorted by
            the order of the vertices and rank.
    """

    vertices: pl.DataFrame
    edges: pl.DataFrame

    def to_networkx(self) -> Any:
        """The graph as a networkx.DiGraph, with `distance` and `rank` on its edges.

        Needs the package `networkx`.
        """
        import networkx

        graph = networkx.DiGraph()
        graph.add_nodes_from(self.vertices["__id"].to_list())
        for source, target, distance, rank in self.edges.iter_rows():
            graph.add_edge(source, target, distance=distance, rank=rank)
        return graph
