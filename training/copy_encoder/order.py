"""Which images make a batch: at random, or with their nearest neighbors."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

# Pairs above are most often the same photograph twice: no negatives.
_SAME_IMAGE = 0.96


class RandomOrder:
    """Each epoch takes every image once, in a seeded order."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        self._count, self._size, self._seed = count, size, seed

    def __call__(self, step: int) -> Sequence[int]:
        """Numbers of the images of a step."""
        epoch, position = divmod(step, self._count // self._size)
        order = random.Random(f"{self._seed} {epoch}").sample(range(self._count), self._count)
        return order[position * self._size : (position + 1) * self._size]


class NeighborOrder:
    """Groups of near images, so that a batch holds the negatives that are hard to tell apart."""

    def __init__(
        self, rows: torch.Tensor, size: int, group: int, seed: int, depth: int = 24
    ) -> None:
        """The neighbors of all images are searched once.

        Args:
            rows: unit rows (n, d) of the images.
            size: images in a batch.
            group: near images in a batch together.
            seed: decides the groups.
            depth: how many neighbors of an image its group is drawn from.
        """
        self._first = RandomOrder(len(rows), size // group, seed)
        self._size, self._group, self._seed = size, group, seed
        self._near = torch.cat([_neighbors(rows, at, depth) for at in range(0, len(rows), 1024)])

    def __call__(self, step: int) -> Sequence[int]:
        """Numbers of the images of a step, each once."""
        rng = random.Random(f"{self._seed} neighbors {step}")
        chosen: dict[int, None] = {}
        for first in self._first(step):
            near = [number for number in self._near[first].tolist() if number >= 0]
            rng.shuffle(near)
            chosen[first] = None
            added = [number for number in near if number not in chosen][: self._group - 1]
            chosen.update(dict.fromkeys(added))
        return list(chosen)[: self._size]


def _neighbors(rows: torch.Tensor, start: int, depth: int) -> torch.Tensor:
    """The nearest others of 1,024 rows, (m, depth); -1 where a pair may be one photograph."""
    cosines = rows[start : start + 1024] @ rows.T
    cosines[torch.arange(len(cosines)), torch.arange(len(cosines)) + start] = -1.0
    best = cosines.topk(depth, dim=1)
    return best.indices.masked_fill(best.values >= _SAME_IMAGE, -1)
