"""A similarity graph in memory: vertices, and directed edges to the nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class SimilarityGraph:
    """Items and their nearest neighbors.

    `vertices` has the column `__id`; `edges` has `__src_id, __dst_id, distance, rank`, sorted by
    the vertices' order and rank.
    """

    vertices: pl.DataFrame
    edges: pl.DataFrame

    def to_networkx(self) -> Any:
        """A networkx.DiGraph with `distance` and `rank` on its edges."""
        import networkx

        graph = networkx.DiGraph()
        graph.add_nodes_from(self.vertices["__id"].to_list())
        for source, target, distance, rank in self.edges.iter_rows():
            graph.add_edge(source, target, distance=distance, rank=rank)
        return graph
