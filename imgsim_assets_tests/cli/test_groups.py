"""`imgsim groups`."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.group_tables import groups_table
from imgsim_assets.similarity.settings import GroupSettings
from imgsim_assets_tests.support.catalogs import indexed, repacked, sha256_of, tiny
from imgsim_assets_tests.support.shell import Shell
from imgsim_assets_tests.support.shop import versions


@pytest.fixture
def products(shell: Shell) -> Shell:
    """Two items with the same pixels, an item with a noisy copy, and an item without a copy."""
    images = {"a": repacked(tiny(1)), "a2": tiny(1), "b": tiny(2), "b2": tiny(9, like=2)}
    indexed(shell.store, "products", {**images, "c": tiny(3)})
    return shell


def _members(document: Any) -> list[list[str]]:
    return [[member["id"] for member in group["members"]] for group in document["groups"]]


def test_groups_list_the_canonical_item_first(products: Shell) -> None:
    result = products("groups", "products", "--threshold", "0.8", "--json")
    printed = products("groups", "products", "--threshold", "0.8")

    assert result.code == 0, result.err
    assert (result.json["items"], result.json["threshold"]) == (5, 0.8)
    assert _members(result.json) == [["a", "a2"], ["b", "b2"]]
    first, second = result.json["groups"]
    assert (first["canonical"], first["size"], first["min_similarity"]) == ("a", 2, 1.0)
    assert 0.8 <= second["min_similarity"] < 1
    assert "products: 2 groups of 4 of 5 items at 0.8 or more" in printed.out
    assert "b2" in printed.out


def test_higher_threshold_splits_groups(products: Shell) -> None:
    result = products("groups", "products", "--threshold", "0.9999", "--json")

    assert _members(result.json) == [["a", "a2"]]


def test_first_seen_item_can_be_canonical(products: Shell) -> None:
    ledger = products.store.table("products/images")
    commit = ledger.latest()
    assert commit is not None
    fetched = dict(ledger.read(commit).select("id", "fetched_at").iter_rows())
    oldest = min(("b", "b2"), key=lambda item: (fetched[item], item))

    result = products(
        "groups", "products", "--threshold", "0.8", "--canonical", "first_seen", "--json"
    )

    assert result.json["groups"][1]["canonical"] == oldest


def test_star_linkage_does_not_chain(shell: Shell) -> None:
    """Both ends are copies of the middle, and less similar to each other than to it."""
    chain = {"end": tiny(6, like=5), "middle": tiny(5), "other_end": tiny(7, like=5)}
    indexed(shell.store, "products", chain)
    edges = pl.DataFrame(shell("graph", "products", "--json").json["edges"])
    to_middle = edges.filter(pl.col("dst_id") == "middle")["similarity"].to_list()
    arguments = ("groups", "products", "--threshold", str(min(to_middle)), "--json")

    chained = shell(*arguments)
    star = shell(*arguments, "--linkage", "star")

    assert _members(chained.json) == [["end", "middle", "other_end"]]
    assert chained.json["groups"][0]["min_similarity"] < min(to_middle)
    assert _members(star.json) == [["end", "middle"]]


def test_items_of_other_values_are_not_grouped(shell: Shell) -> None:
    for name in ("a", "b", "c"):
        (shell.folder / f"{name}.png").write_bytes(tiny(1))
    rows = [
        "id,url,brand",
        *(f"{name},{name}.png,{brand}" for name, brand in zip("abc", "xyx", strict=True)),
    ]
    (shell.folder / "list.csv").write_text("\n".join(rows))

    apart = shell(
        "groups",
        "list.csv",
        "--threshold",
        "0.9",
        "--within",
        "brand",
        "--encoder",
        "hog_color",
        "--json",
    )
    together = shell("groups", "list.csv", "--threshold", "0.9", "--encoder", "hog_color", "--json")

    assert _members(apart.json) == [["a", "c"]]
    assert _members(together.json) == [["a", "b", "c"]]


def test_ignored_images_are_in_no_group(products: Shell) -> None:
    (products.folder / "ignore.csv").write_text(sha256_of(tiny(1)))

    result = products("groups", "products", "--threshold", "0.8", "--ignore", "ignore.csv")
    document = products(
        "groups", "products", "--threshold", "0.8", "--ignore", "ignore.csv", "--json"
    )

    assert "left out: 2 images that --ignore names or that are as near" in result.out
    assert _members(document.json) == [["b", "b2"]]


@pytest.mark.parametrize("suffix", ["tsv", "csv", "parquet", "jsonl"])
def test_groups_are_written_in_every_format(products: Shell, suffix: str) -> None:
    result = products("groups", "products", "--threshold", "0.8", "--out", f"g.{suffix}")

    path = products.folder / f"g.{suffix}"
    table = {
        "tsv": lambda: pl.read_csv(path, separator="\t"),
        "csv": lambda: pl.read_csv(path),
        "parquet": lambda: pl.read_parquet(path),
        "jsonl": lambda: pl.read_ndjson(path),
    }[suffix]()
    assert result.code == 0
    assert table["group_id"].to_list() == ["a", "a", "b", "b"]
    assert table["is_canonical"].to_list() == [True, False, True, False]


def test_groups_across_catalogs_prefer_the_catalog_named_first(
    products: Shell,
) -> None:
    indexed(products.store, "suppliers", {"s": repacked(tiny(3)), "t": tiny(50)})

    result = products("groups", "suppliers", "products", "--threshold", "0.8", "--json")
    other_way = products("groups", "products", "suppliers", "--threshold", "0.8", "--json")
    twice = products("groups", "products", "products")
    printed = products("groups", "suppliers", "products", "--threshold", "0.8")

    assert _members(result.json) == [["a", "a2"], ["b", "b2"], ["s", "c"]]
    assert [group["canonical"] for group in result.json["groups"]] == [
        "products/a",
        "products/b",
        "suppliers/s",
    ]
    assert [member["catalog"] for member in result.json["groups"][2]["members"]] == [
        "suppliers",
        "products",
    ]
    assert other_way.json["groups"][2]["canonical"] == "products/c"
    assert "suppliers, products: 3 groups of 6 of 7 items at 0.8 or more" in printed.out
    assert (twice.code, "name each once" in twice.err) == (2, True)
    assert products("verify").code == 0


def test_declared_groups_are_not_changed(products: Shell) -> None:
    declared = GroupStage(products.store, "products", GroupSettings(threshold=0.99)).run()
    before = versions(products.store)

    products("groups", "products", "--threshold", "0.8")
    products("groups", "products", "--threshold", "0.8")

    after = versions(products.store)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    latest = groups_table(products.store, "products").latest()
    assert latest is not None
    assert latest.version == declared.version
    assert products("verify").code == 0


def test_failed_groups_report_the_reason(products: Shell) -> None:
    unknown = products("groups", "shoes")
    invalid = products("groups", "products", "--canonical", "best")

    assert unknown.code == 1
    assert "shoes" in unknown.err
    assert invalid.code == 2
    assert "is not a choice; write" in invalid.err
