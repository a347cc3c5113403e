from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsim_assets.storage.damage import BytesRead, Damage
from imgsim_assets.storage.pack_damage import inspect_index_files, inspect_pack
from imgsim_assets.storage.pack_index import PackIndex
from imgsim_assets.storage.packs import PACKS, list_packs
from imgsim_assets.storage.references import Reference, file_version
from imgsim_assets.storage.sorted_runs import INDEXES
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import sha256_of, tiny
from imgsim_assets_tests.support.damage import read_blobs

IMAGES = [tiny(seed) for seed in range(5)]


@pytest.fixture
def pack(store: Store) -> Path:
    """The path of a pack of five images."""
    store.blobs.put_many(IMAGES)
    store.blobs.flush()
    [entry] = list_packs(store.files)
    return Path(store.url) / PACKS / entry.name


def damages(store: Store) -> Iterator[Damage]:
    yield from inspect_index_files(store.files, BytesRead())
    for pack in list_packs(store.files):
        if damage := inspect_pack(store.files, pack, BytesRead()):
            yield damage


def write_index_file(store: Store) -> Path:
    index = PackIndex(store.files)
    index.refresh()
    index.compact(at_least=1)
    [path] = (Path(store.url) / INDEXES).iterdir()
    return path


def change_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_every_changed_byte_of_a_pack_is_damage(store: Store, pack: Path) -> None:
    whole = pack.read_bytes()
    assert list(damages(store)) == []

    # The header, the index, and some bytes of the images.
    end = len(whole)
    for position in {*range(16), *range(0, end, 29), *range(end - 44 * len(IMAGES) - 16, end)}:
        pack.write_bytes(whole)
        change_byte(pack, position)
        assert len(list(damages(store))) == 1, position
    for other in (whole + b"x", whole[:-1], b""):
        pack.write_bytes(other)
        assert len(list(damages(store))) == 1


def test_every_changed_byte_of_a_pack_of_references_is_damage(store: Store, tmp_path: Path) -> None:
    references = []
    for number, data in enumerate(IMAGES[:2]):
        path = tmp_path / f"{number}.png"
        path.write_bytes(data)
        reference = Reference(str(path), len(data), file_version(path.stat()))
        references.append((hashlib.sha256(data).digest(), reference))
    store.blobs.put_references(references)
    store.blobs.flush()
    [entry] = list_packs(store.files)
    path = Path(store.url) / PACKS / entry.name
    whole = path.read_bytes()
    assert list(damages(store)) == []

    for position in range(len(whole)):
        path.write_bytes(whole)
        change_byte(path, position)
        assert len(list(damages(store))) == 1, position


def test_every_changed_byte_of_an_index_file_is_damage(store: Store, pack: Path) -> None:
    path = write_index_file(store)
    whole = path.read_bytes()
    assert list(damages(store)) == []

    for position in range(len(whole)):
        path.write_bytes(whole)
        change_byte(path, position)
        assert len(list(damages(store))) == 1, position


def test_intact_images_of_a_damaged_pack_move_to_another(store: Store, pack: Path) -> None:
    change_byte(pack, 8)  # the first byte of the first image

    [damage] = damages(store)
    assert damage.repair() == "kept 4 of 5 images in a new pack"

    assert not pack.exists()
    assert list(damages(store)) == []
    assert read_blobs(store).keys() == {sha256_of(data) for data in IMAGES[1:]}


def test_pack_without_its_index_is_read_by_an_index_file(store: Store, pack: Path) -> None:
    write_index_file(store)
    change_byte(pack, -1)

    [damage] = damages(store)
    assert damage.repair() == "kept 5 of 5 images in a new pack"

    assert read_blobs(store).keys() == {sha256_of(data) for data in IMAGES}


def test_damaged_index_file_is_deleted_and_the_packs_are_read(store: Store, pack: Path) -> None:
    path = write_index_file(store)
    change_byte(path, 3)

    [damage] = damages(store)
    assert damage.repair() == "deleted it"

    assert not path.exists()
    opened = Store.open(store.url)
    assert [opened.blobs.get(sha256_of(data)) for data in IMAGES] == IMAGES
