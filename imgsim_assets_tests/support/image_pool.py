"""Images by number, as vectors and sha256, for the laws of items with several images."""

from __future__ import annotations

import numpy as np

from imgsim_assets.similarity.items import Items, turned_keys
from imgsim_assets.similarity.orientations import TurnedCatalogs
from imgsim_assets.storage.commit import Commit
from imgsim_assets_tests.support.vectors import cosines, lattice, noise

# With exact ties, and some with the same vector under another sha256.
_LATTICE = lattice(6, 4, seed=3)
POOL = np.concatenate([_LATTICE, noise(5, 4, seed=4), _LATTICE[:3], noise(5, 4, seed=4)[:2]])
SIMILARITY = cosines(POOL, POOL)
# Every image in eight orientations (n, 8, d), upright first: turned images are others of the pool.
TURNED = POOL[
    [
        [(number * (1 + 2 * turn) + 5 * turn) % len(POOL) for turn in range(8)]
        for number in range(len(POOL))
    ]
]
# By orientation, image in that orientation and upright image.
TURNED_SIMILARITY = [cosines(TURNED[:, turn], POOL) for turn in range(8)]
# By number, in another order than the numbers.
SHA256 = [f"{(number * 7) % len(POOL):064d}" for number in range(len(POOL))]


def turned_images(_: TurnedCatalogs, __: str, ___: Commit, images: Items) -> Items:
    """In place of `TurnedCatalogs.turned`."""
    vectors = TURNED[[SHA256.index(sha256) for sha256 in images.keys["sha256"]]]
    return Items(turned_keys(images.keys), vectors.reshape(-1, POOL.shape[1]), images.recorded)
