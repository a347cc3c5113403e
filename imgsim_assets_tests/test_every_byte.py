"""Every changed byte of a store is detected, and never leads to a traceback or a wrong row."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.download.scheduling.active_runs import FOLDER
from imgsim_assets.errors import CorruptFileError, ImgsimError
from imgsim_assets.pipeline.repair import repair
from imgsim_assets.pipeline.verify import verify
from imgsim_assets.storage.blobs import MISSING, PENDING_DELETE, PINS
from imgsim_assets.storage.packs import PACKS
from imgsim_assets.storage.sorted_runs import INDEXES
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.small_store import SmallStore, contents, pages
from imgsim_assets_tests.support.web import Web

# Marks and leases say what runs do; their bytes say nothing about the data. Galleries show it.
_MARKS = (PINS, PENDING_DELETE, MISSING, "_leases", FOLDER, "_galleries")

Contents = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallStore]:
    """A store with a history, in the folder `store` beside its lists."""
    with Web() as web:
        web.pages.update(pages())
        small = SmallStore(tmp_path_factory.mktemp("every_byte"), web.address)
        small.build(Store.open(small.folder / "store"))
        yield small


@pytest.fixture(scope="module")
def expected(small: SmallStore) -> Contents:
    return contents(Store.open(small.folder / "store"))


@dataclass(frozen=True)
class Edit:
    """A byte to write at a position of a file."""

    file: str
    position: int
    byte: int


def edits(store: Store, count: int, seed: int) -> list[Edit]:
    """Changes of one byte: the kinds of files take turns."""
    rng = random.Random(seed)
    root = Path(store.url)
    roles = file_roles(store)
    kinds = defaultdict(list)
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file() and not any(mark in name for mark in _MARKS):
            kinds[kind_of(name, roles)].append(path)
    names = sorted(kinds)
    rng.shuffle(names)
    chosen = []
    for number in range(count):
        path = rng.choice(kinds[names[number % len(names)]])
        data = path.read_bytes()
        position = rng.randrange(len(data))
        byte = rng.choice([value for value in range(256) if value != data[position]])
        chosen.append(Edit(str(path.relative_to(root)), position, byte))
    return chosen


def file_roles(store: Store) -> dict[str, str]:
    """The role of every file that a commit lists."""
    return {
        f"{name}/{file.path}": file.role
        for name in store.table_names()
        for version in store.table(name).versions()
        for file in store.table(name).at(version).files
    }


def kind_of(name: str, roles: dict[str, str]) -> str:
    """The kind of a file, the same for both catalogs."""
    folder, _, base = name.rpartition("/")
    kind = re.sub("^(products|suppliers)/", "", folder)
    kind = re.sub(r"^vectors/\w+\.\w+", "turned vectors", kind)
    return f"{kind} {roles.get(name, base if base.startswith('_') else '')}"


def damaged_copy(small: SmallStore, folder: Path, edit: Edit) -> Store:
    """A copy of the store with one byte changed."""
    root = folder / "store"
    shutil.rmtree(root, ignore_errors=True)
    # Links are enough: a store never changes a file in place.
    shutil.copytree(small.folder / "store", root, copy_function=os.link)
    path = root / edit.file
    data = bytearray(path.read_bytes())
    data[edit.position] = edit.byte
    path.unlink()
    path.write_bytes(data)
    return Store.open(root)


def check_run(small: SmallStore, store: Store, edit: Edit, expected: Contents) -> None:
    """A run heals the damage, or does not read it, or stops with one message."""
    error = first_error(small, store)
    if error is None:
        assert_contents(store, expected, without=unread_table(store, edit))
    else:
        assert "\n" not in str(error)
        assert Path(edit.file).name in str(error)


def unread_table(store: Store, edit: Edit) -> str | None:
    """The table of damage that the run had no reason to read, and which is still there."""
    name, _, file = edit.file.partition("/data/")
    name = name.partition("/_commits/")[0]
    if name == edit.file:
        return None
    try:
        newest = store.table(name).latest()
    except CorruptFileError:
        return name
    if newest is None or all(Path(each.path).name != file for each in newest.files):
        return None
    assert not store.table(name).verify_checksums(newest)
    return name


def first_error(small: SmallStore, store: Store) -> ImgsimError | None:
    try:
        small.materialize(Store.open(store.url))
    except ImgsimError as error:
        return error
    return None


def check_repair(small: SmallStore, store: Store, expected: Contents) -> None:
    """After a repair and one run, nothing is damaged and nothing is lost."""
    repair(Store.open(store.url))
    small.materialize(Store.open(store.url))
    assert verify(Store.open(store.url), sample_size=2).problems == []
    assert_contents(store, expected)


def assert_contents(store: Store, expected: Contents, *, without: str | None = None) -> None:
    found = contents(Store.open(store.url), without=without)
    assert found.keys() == expected.keys() - {without}
    for name, rows in found.items():
        assert rows.equals(expected[name]), name


def check_edits(
    small: SmallStore, expected: Contents, folder: Path, chosen: Sequence[Edit], *, all_ways: bool
) -> None:
    """Check every edit; without `all_ways` a run and a repair alternate."""
    for number, edit in enumerate(chosen):
        store = damaged_copy(small, folder, edit)
        try:
            assert verify(store, sample_size=2).problems, "verify finds nothing"
            if all_ways or number % 2:
                check_run(small, store, edit, expected)
            if all_ways:
                check_repair(small, store, expected)
                store = damaged_copy(small, folder, edit)
            if all_ways or not number % 2:
                check_repair(small, store, expected)
        except Exception as error:
            raise AssertionError(f"{edit}: {error}") from error


def test_a_changed_byte_is_detected_and_repaired(
    small: SmallStore, expected: Contents, tmp_path: Path
) -> None:
    store = Store.open(small.folder / "store")
    assert verify(store).problems == []

    check_edits(small, expected, tmp_path, edits(store, 28, seed=17), all_ways=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_five_hundred_changed_bytes_are_detected_and_repaired(
    small: SmallStore, expected: Contents, tmp_path: Path, seed: int
) -> None:
    store = Store.open(small.folder / "store")

    check_edits(small, expected, tmp_path, edits(store, 50, seed), all_ways=True)


@pytest.mark.parametrize("lost", ["packs", "packs and indexes"])
def test_images_of_lost_packs_are_fetched_again_although_their_vectors_exist(
    small: SmallStore, expected: Contents, tmp_path: Path, lost: str
) -> None:
    store = Store.open(shutil.copytree(small.folder / "store", tmp_path / "store"))
    for folder in (PACKS, INDEXES) if "indexes" in lost else (PACKS,):
        shutil.rmtree(tmp_path / "store" / folder)
    messages: list[str] = []

    small.materialize(Store.open(store.url), log=messages.append)

    assert any("whose pack was lost" in message for message in messages)
    assert verify(Store.open(store.url)).problems == []
    assert_contents(store, expected)


def test_images_of_a_lost_pack_that_cannot_be_fetched_are_marked(web: Web, tmp_path: Path) -> None:
    web.pages.update(pages())
    store = Store.open(tmp_path / "store")
    own = SmallStore(tmp_path, web.address)
    own.build(store)
    shutil.rmtree(tmp_path / "store" / PACKS)
    web.pages.clear()

    own.materialize(Store.open(store.url))

    assert set(contents(store)["products/images"]["status"]) == {"http_404"}
    assert verify(Store.open(store.url)).problems == []
