"""Similarity: exact joins and neighbours of unit vectors, match tables, similarity graphs."""

from imgsim_assets.similarity.join import threshold_join, top_k

__all__ = ["threshold_join", "top_k"]
