from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest

from imgsim_assets.download.ledger.table import ledger_frame, ledger_table
from imgsim_assets.similarity import canonical
from imgsim_assets.similarity.canonical import PROTECTED
from imgsim_assets.similarity.items import LEFT_OUT, Items
from imgsim_assets.similarity.ranked_images import ranked_images
from imgsim_assets.storage import row_blocks, stored_rows
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store


@pytest.mark.parametrize(("size", "in_memory"), [(7, 0), (1 << 14, 1 << 20)])
def test_images_follow_the_rank_of_their_items_and_their_numbers(
    store: Store, monkeypatch: pytest.MonkeyPatch, size: int, in_memory: int
) -> None:
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", size)
    monkeypatch.setattr(stored_rows, "rows_in_memory", lambda: in_memory)
    monkeypatch.setattr(canonical, "_ROWS_GROUPED", size)
    rng = random.Random(5)
    catalogs, expected = {}, []
    for priority, name in enumerate(["theirs", "ours"]):
        rows = [(f"{n:03}", image) for n in range(40) for image in range(rng.randint(1, 3))]
        images = pl.DataFrame(rows, schema={"id": pl.String, "image": pl.Int32}, orient="row")
        images = images.with_columns(sha256=pl.concat_str("id", "image"))
        if name == "ours":
            reason = pl.when(pl.col("image") == 2).then(pl.lit("ignored"))
            images = images.with_columns(reason.alias(LEFT_OUT))
        sizes = {number: rng.randint(1, 5) for number, _ in rows}
        _fetched(store, name, rows, sizes)
        none = Items(images.clear(), np.empty((0, 1), np.float32))
        catalogs[name] = Items(none.images, none.blocks, source=images)
        is_protected = name == "ours"
        expected += [
            ((not is_protected, -sizes[number], priority, number, image), f"{name}/{number}", image)
            for number, image in rows
        ]

    rules = ["largest_file", "catalog_order"]
    ranked = ranked_images(store, catalogs, ["ours"], rules, "/")

    found = ranked.all()
    in_order = [key[1:] for key in sorted(expected)]
    assert found.select("id", "image").rows() == in_order
    assert found[PROTECTED].to_list() == [number.startswith("ours") for number, _ in in_order]
    assert (
        found[LEFT_OUT].is_not_null().sum()
        == found.filter(pl.col("id").str.starts_with("ours") & (pl.col("image") == 2)).height
    )


def _fetched(store: Store, name: str, rows: list[tuple[str, int]], sizes: dict[str, int]) -> None:
    """Store a ledger, in which each image of an item has the bytes of the item."""
    ledger = ledger_table(store, name)
    outcomes = [
        {
            "id": number,
            "image": image,
            "url": f"https://images.example/{name}/{number}/{image}",
            "status": "ok",
            "bytes": sizes[number],
        }
        for number, image in rows
    ]
    file = ledger.write_rows(ledger_frame(outcomes))
    ledger.commit(lambda _: PendingCommit([file], {}, {}))
