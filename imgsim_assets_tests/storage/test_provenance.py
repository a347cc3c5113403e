from __future__ import annotations

import polars as pl

from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.provenance import read_provenance
from imgsim_assets.storage.store import Store


def _commit(store: Store, name: str, inputs: dict[str, int | str], **properties: str) -> None:
    table = store.table(name)
    file = table.write_rows(pl.DataFrame({"id": ["a"]}))
    table.commit(lambda _: PendingCommit([file], inputs=inputs, properties=properties))


def test_provenance_reaches_the_source(store: Store) -> None:
    _commit(store, "shop/items", {"source": "ab12"})
    _commit(store, "shop/images", {"items": 1})
    _commit(store, "shop/embeddings", {"images": 1}, fingerprint="f")
    _commit(store, "matches/pair", {"shop/embeddings": 1, "shop/images": 1})

    found = read_provenance("matches/pair", store=store)

    assert found.select("table", "version").rows() == [
        ("matches/pair", "1"),
        ("shop/embeddings", "1"),
        ("shop/images", "1"),
        ("shop/items", "1"),
        ("shop/source", "ab12"),
    ]
    assert found["fingerprint"].to_list() == [None, "f", None, None, None]
    assert found["committed_at"].null_count() == 1


def test_provenance_ends_at_deleted_versions(store: Store) -> None:
    _commit(store, "shop/images", {"items": 7})

    found = read_provenance("shop/images", version=1, store=store)

    assert found.select("table", "version", "committed_at").rows()[1] == (
        "shop/items",
        "7",
        None,
    )
