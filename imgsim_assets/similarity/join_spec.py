"""Which pairs a join returns, and how long the neighbor lists are that it keeps."""

from __future__ import annotations

from dataclasses import dataclass

MIN_COSINE = -1.0
_MIN_RESERVE = 4


@dataclass(frozen=True)
class JoinSpec:
    """Which pairs of left and right rows a join returns.

    `threshold` is the minimum cosine, inclusive. `k` keeps the rows of the k best right items of
    each left row, None keeps all. `exclude_self` drops pairs of rows of one item, for a join of
    one set with itself.
    """

    threshold: float = MIN_COSINE
    k: int | None = None
    exclude_self: bool = False

    def min_length(self, max_images: int) -> int:
        """The length at which a truncated list holds the k best items, of `max_images` at most."""
        return 0 if self.k is None else self.k * max_images

    def depth(self, max_images: int) -> int | None:
        """The maximum length of a neighbor list; None for no limit."""
        if self.k is None:
            return None
        return self.min_length(max_images) + max(_MIN_RESERVE, self.k)

    def search_depth(self, max_images: int) -> int | None:
        """How many right rows are searched for: as many more as an item may find of itself."""
        depth = self.depth(max_images)
        return depth + max_images if depth is not None and self.exclude_self else depth
