from __future__ import annotations

import json
import shutil

import pytest

from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import tables
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.damage import flip_bit_in_blob, remove_blob
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.shell import Shell, match_web_list
from imgsim_assets_tests.support.shop import versions
from imgsim_assets_tests.support.web import Web


def test_verify_passes_an_intact_store(shell: Shell, web: Web) -> None:
    web.pages.update({f"/{n}.jpg": jpeg(n) for n in range(3)})
    name = match_web_list(shell, web, "--mode", "all")
    shell("graph", name)

    result = shell("verify", "--json")

    assert result.code == 0, result.out
    assert result.json["problems"] == []
    assert result.json["blobs"] == 3
    assert result.json["tables"] == 9


@pytest.mark.parametrize("kind", ["items", "images", "embeddings", "index", "vectors", "matches"])
def test_verify_finds_a_flipped_byte(shell: Shell, web: Web, kind: str) -> None:
    web.pages.update({f"/{n}.jpg": jpeg(n) for n in range(3)})
    name = match_web_list(shell, web)
    place = shell.folder / "data" / "store" / (kind if kind == "matches" else f"{name}/{kind}")
    damaged = max(place.rglob("data/*"), key=lambda path: path.stat().st_size)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)

    before = versions(shell.store)

    result = shell("verify", "--json")
    printed = shell("verify")

    assert versions(shell.store) == before
    assert result.code == printed.code == 3
    assert any(damaged.name in problem["message"] for problem in result.json["problems"])
    count = len(result.json["problems"])
    assert printed.out.splitlines()[-1] == ("1 problem" if count == 1 else f"{count} problems")


def test_verify_finds_damaged_and_missing_images(shell: Shell) -> None:
    images = {"a": tiny(1), "b": tiny(2)}
    indexed(shell.store, "products", images)
    ledger = shell.store.table("products/images")
    commit = ledger.latest()
    assert commit is not None
    damaged, missing = ledger.read(commit)["sha256"].to_list()
    root = shell.folder / "data" / "store"
    remove_blob(Store.open(root), missing)
    flip_bit_in_blob(Store.open(root), damaged)

    result = shell("verify", "--json")

    problems = [
        f"{problem['location']}: {problem['message']}" for problem in result.json["problems"]
    ]
    assert result.code == 3
    assert any(damaged in line and "do not match the name" in line for line in problems)
    assert any(missing in line and "has no image" in line for line in problems)


def test_verify_finds_missing_vectors(shell: Shell) -> None:
    indexed(shell.store, "products", {"a": tiny(1)})
    shutil.rmtree(shell.folder / "data" / "store" / "products" / "vectors")

    result = shell("verify", "--json")

    assert result.code == 3
    assert any(
        "1 image without a vector" in problem["message"] for problem in result.json["problems"]
    )


def test_verify_of_a_store_of_an_earlier_format_says_so_once(shell: Shell) -> None:
    indexed(shell.store, "products", {"a": tiny(1)})
    for path in (shell.folder / "data" / "store").rglob("_commits/*.json"):
        path.write_bytes(tables.resealed({**json.loads(path.read_bytes()), "format": 1}))

    result = shell("verify")

    assert result.code == 1
    assert (result.out + result.err).count("earlier version") == 1
