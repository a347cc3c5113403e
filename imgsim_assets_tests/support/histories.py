"""Random histories of catalogs, and the similarities that they must have by definition."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np

from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, repacked, sha256_of, tiny
from imgsim_assets_tests.support.vectors import Doubles, cosines

Images = dict[str, bytes]

# Images, copies with other bytes, similar images, and a file that is not an image.
POOL = [
    *(tiny(seed) for seed in range(6)),
    *(repacked(tiny(seed)) for seed in range(3)),
    *(tiny(100 + seed, like=seed % 4) for seed in range(10)),
    b"no image",
]


def history(seed: int, steps: int, prefix: str) -> list[Images]:
    """States of a catalog, each made from the last by additions, changes and removals."""
    rng = random.Random(f"{seed} {prefix}")
    images: Images = {}
    states = []
    for step in range(steps):
        for item in list(images):
            draw = rng.random()
            if draw < 0.1 or (step == 2 and draw < 0.7):
                del images[item]
            elif draw < 0.25:
                images[item] = rng.choice(POOL)
        for _ in range(rng.randrange(6)):
            images[f"{prefix}{rng.randrange(30):02d}"] = rng.choice(POOL)
        states.append(dict(images))
    return states


def usable(images: Mapping[str, bytes]) -> list[str]:
    """The ids whose file is an image, sorted."""
    return sorted(item for item, data in images.items() if data != POOL[-1])


def similarity(
    store: Store, left: str, left_images: Images, right: str, right_images: Images
) -> Doubles:
    """The cosines of the stored vectors, by the `usable` ids of both catalogs."""
    return cosines(_stored(store, left, left_images), _stored(store, right, right_images))


def _stored(store: Store, name: str, images: Images) -> np.ndarray:
    keys = [sha256_of(images[item]) for item in usable(images)]
    if not keys:
        return np.empty((0, 192), np.float32)
    stored = VectorTable(store, name, fingerprint(THUMBNAIL)).read(keys)
    row_of = {sha256: row for row, sha256 in enumerate(stored.sha256)}
    return stored.vectors[[row_of[key] for key in keys]]
