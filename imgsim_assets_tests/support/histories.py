"""Catalogs as they change from night to night, and what must come of them by definition."""

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

# A few images, copies of them in other bytes, look-alikes, and files that are no image.
POOL = [
    *(tiny(seed) for seed in range(6)),
    *(repacked(tiny(seed)) for seed in range(3)),
    *(tiny(100 + seed, like=seed % 4) for seed in range(10)),
    b"no image",
]


def history(seed: int, steps: int, prefix: str) -> list[Images]:
    """States of a catalog; each comes of the last by additions, changes and removals."""
    chance = random.Random(f"{seed} {prefix}")
    images: Images = {}
    states = []
    for step in range(steps):
        for item in list(images):
            fate = chance.random()
            if fate < 0.1 or (step == 2 and fate < 0.7):
                del images[item]
            elif fate < 0.25:
                images[item] = chance.choice(POOL)
        for _ in range(chance.randrange(6)):
            images[f"{prefix}{chance.randrange(30):02d}"] = chance.choice(POOL)
        states.append(dict(images))
    return states


def usable(images: Mapping[str, bytes]) -> list[str]:
    """The ids whose file is an image, sorted."""
    return sorted(item for item, data in images.items() if data != POOL[-1])


def similarity(
    store: Store, left: str, left_images: Images, right: str, right_images: Images
) -> Doubles:
    """The cosines of the stored vectors, by `usable` ids of both sides."""
    return cosines(_stored(store, left, left_images), _stored(store, right, right_images))


def _stored(store: Store, name: str, images: Images) -> np.ndarray:
    keys = [sha256_of(images[item]) for item in usable(images)]
    if not keys:
        return np.empty((0, 192), np.float32)
    found = VectorTable(store, name, fingerprint(THUMBNAIL)).read(keys)
    place = {sha256: row for row, sha256 in enumerate(found.sha256)}
    return found.vectors[[place[key] for key in keys]]
