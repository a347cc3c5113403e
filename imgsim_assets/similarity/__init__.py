"""Similarity: exact joins and neighbours of unit vectors, match tables, similarity graphs."""

from imgsim_assets.similarity.distance import cosine_matrix, radius_join
from imgsim_assets.similarity.join import threshold_join, top_k

__all__ = ["cosine_matrix", "radius_join", "threshold_join", "top_k"]
