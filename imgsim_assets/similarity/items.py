"""Reading a catalog's items with their vectors from the store."""

from __future__ import annotations

import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.vectors import REBUILDS, VectorTable
from imgsim_assets.index.stage import embedded_items, open_index
from imgsim_assets.similarity.pairs import Items
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store


def with_vectors(store: Store, name: str, fingerprint: str, keys: pl.DataFrame) -> Items:
    """Items (id, sha256; sorted by id) with their vectors of an encoder fingerprint."""
    found = VectorTable(store, name, fingerprint).read(keys["sha256"].to_list())
    row = {sha256: position for position, sha256 in enumerate(found.sha256)}
    order = [row[sha256] for sha256 in keys["sha256"].to_list()]
    return Items(keys, found.vectors[order])


def from_embeddings(store: Store, name: str) -> tuple[Commit, Items]:
    """A catalog's items as its embeddings have them, and the embeddings' commit."""
    commit, keys = embedded_items(store, name)
    return commit, with_vectors(store, name, commit.properties[FINGERPRINT], keys)


def drops(*of_sides: int) -> dict[str, list[int]]:
    """What a recipe says of vectors that were dropped and computed anew: a number a side.

    Nothing where none ever were: then a result is of the recipe that it would be without this.
    """
    return {REBUILDS: list(of_sides)} if any(of_sides) else {}


def from_index(store: Store, name: str) -> tuple[Commit, Items]:
    """A catalog's items as its index has them, and the index's commit."""
    commit, index = open_index(store, name)
    return commit, Items(index.entries.select("id", "sha256"), index.vectors())
