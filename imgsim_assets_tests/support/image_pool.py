"""Images by number, as vectors and sha256, for the laws of items with several images."""

from __future__ import annotations

import numpy as np

from imgsim_assets_tests.support.vectors import cosines, lattice, noise

# With exact ties, and some with the same vector under another sha256.
_LATTICE = lattice(6, 4, seed=3)
POOL = np.concatenate([_LATTICE, noise(5, 4, seed=4), _LATTICE[:3], noise(5, 4, seed=4)[:2]])
SIMILARITY = cosines(POOL, POOL)
# By number, in another order than the numbers.
SHA256 = [f"{(number * 7) % len(POOL):064d}" for number in range(len(POOL))]
