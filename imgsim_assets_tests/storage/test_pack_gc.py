from __future__ import annotations

import hashlib
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage import pack_gc, packs
from imgsim_assets.storage.blobs import MISSING, PENDING_DELETE, PINS, Blobs, read_blob
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.pack_gc import PackGcReport, collect_blobs
from imgsim_assets.storage.pack_index import INDEXES, Location
from imgsim_assets.storage.packs import PACKS, list_packs
from imgsim_assets.storage.store import Store, open_files
from imgsim_assets_tests.support.damage import flip_bit_in_blob, read_blobs
from imgsim_assets_tests.support.file_ages import make_older
from imgsim_assets_tests.support.interrupted import InterruptedFiles

LARGE = [bytes([number]) * 1000 for number in range(20)]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pack(store: Store, *images: bytes) -> str:
    """Store images in a pack of their own; its name."""
    before = {entry.name for entry in list_packs(store.files)}
    writer = Store.open(store.url)
    writer.blobs.put_many(images)
    writer.blobs.flush()
    [name] = {entry.name for entry in list_packs(store.files)} - before
    return name


def collected(store: Store, living: Iterable[bytes], *, dry_run: bool = False) -> PackGcReport:
    names = pl.Series([sha(image) for image in living], dtype=pl.String)
    return collect_blobs(store.files, names, time.time() - 3600, dry_run=dry_run)


def two_copies(store: Store, older: Iterable[bytes], newer: Iterable[bytes]) -> Store:
    """Two packs written at once, of which both have the images that are in both lists."""
    first, second = Store.open(store.url), Store.open(store.url)
    first.blobs.put_many(list(older))
    second.blobs.put_many(list(newer))
    first.blobs.flush()
    time.sleep(0.02)  # so that one of them is newer
    second.blobs.flush()
    return second


def readable(store: Store, images: Iterable[bytes]) -> bool:
    """Whether a reader gets every image."""
    reader = Store.open(store.url)
    return all(reader.blobs.get(sha(image)) == image for image in images)


def flip(path: Path) -> None:
    """Change one bit of the first image of a pack."""
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)


def packs_of(store: Store) -> set[str]:
    return {entry.name for entry in list_packs(store.files)}


def images_of(store: Store) -> set[bytes]:
    return set(read_blobs(store).values())


@pytest.fixture
def root(store: Store) -> Path:
    return Path(store.url)


def test_a_pack_of_which_nothing_is_needed_goes(store: Store, root: Path) -> None:
    pack(store, LARGE[0], LARGE[1])
    kept = pack(store, LARGE[2])
    size = sum(entry.size for entry in list_packs(store.files) if entry.name != kept)
    make_older(root, 2)

    assert collected(store, [LARGE[2]]) == PackGcReport(blobs=2, bytes=size)
    assert packs_of(store) == {kept}


def test_a_pack_that_is_mostly_dead_is_rewritten(store: Store, root: Path) -> None:
    old = pack(store, *LARGE[:4])
    make_older(root, 2)
    reader = Store.open(store.url).blobs
    assert reader.get(sha(LARGE[0])) == LARGE[0]

    found = collected(store, LARGE[:2])

    assert found.blobs == 2
    assert images_of(store) == set(LARGE[:2])
    assert old not in packs_of(store)
    assert reader.get(sha(LARGE[0])) == LARGE[0]
    assert collected(store, LARGE[:2]) == PackGcReport()


def test_a_pack_that_is_mostly_alive_stays_as_it_is(store: Store, root: Path) -> None:
    old = pack(store, *LARGE[:4])
    make_older(root, 2)

    assert collected(store, LARGE[:3]) == PackGcReport()
    assert packs_of(store) == {old}


def test_many_small_packs_become_one(store: Store, root: Path) -> None:
    for number in range(10):
        pack(store, LARGE[number])
    make_older(root, 2)

    found = collected(store, LARGE[:10])

    assert found.blobs == 0
    assert len(packs_of(store)) == 1
    assert images_of(store) == set(LARGE[:10])
    make_older(root, 2)
    collected(store, LARGE[:10])
    assert len(packs_of(store)) == 1


def test_the_indexes_of_few_packs_are_in_memory_at_once(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        pack(store, LARGE[number])
    make_older(root, 2)
    seen: list[weakref.ref[packs.PackEntries]] = []
    held: list[int] = []

    def watched(*arguments: Any) -> packs.PackEntries:
        contents = packs.read_pack_entries(*arguments)
        seen.append(weakref.ref(contents))
        held.append(sum(one() is not None for one in seen))
        return contents

    monkeypatch.setattr(pack_gc, "read_pack_entries", watched)

    collected(store, LARGE[:10])

    assert images_of(store) == set(LARGE[:10])
    assert max(held) <= 2


def test_few_small_packs_stay(store: Store, root: Path) -> None:
    names = {pack(store, LARGE[number]) for number in range(5)}
    make_older(root, 2)

    collected(store, LARGE[:5])

    assert packs_of(store) == names


def test_what_is_rewritten_fills_packs_of_the_usual_size(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        pack(store, LARGE[number])
    make_older(root, 2)
    for module in (pack_gc, packs):
        monkeypatch.setattr(module, "PACK_BYTES", 4500)

    announced = collected(store, LARGE[:12], dry_run=True)
    done = collected(store, LARGE[:12])

    assert announced == done
    assert len(packs_of(store)) == 3
    assert images_of(store) == set(LARGE[:12])


def test_young_and_used_packs_are_left_alone(store: Store, root: Path) -> None:
    used = pack(store, LARGE[0])
    make_older(root, 2)
    store.files.write(f"{PINS}/{used}", b"")
    young = pack(store, LARGE[1])

    assert collected(store, []) == PackGcReport()
    assert packs_of(store) == {used, young}
    make_older(root, 2)
    assert collected(store, []).blobs == 2
    assert packs_of(store) == set()
    assert store.files.entries(PINS) == []


def test_a_pack_that_is_marked_while_it_is_rewritten_stays(store: Store, root: Path) -> None:
    old = pack(store, *LARGE[:3])
    make_older(root, 2)
    busy = InterruptedFiles(
        root, "after part", f"{PACKS}/{old}", lambda: store.files.write(f"{PINS}/{old}", b"")
    )

    collect_blobs(busy, pl.Series([sha(LARGE[0])]), time.time() - 3600, dry_run=False)

    assert old in packs_of(store)
    assert images_of(store) == set(LARGE[:3])


@pytest.mark.parametrize("moment", ["after write", "after stat"])
def test_an_image_that_is_put_while_its_pack_is_deleted_stays(
    store: Store, root: Path, moment: str
) -> None:
    old = pack(store, LARGE[0])
    make_older(root, 2)
    run = Store.open(store.url)

    def put() -> None:
        run.blobs.put(LARGE[0])
        run.blobs.flush()

    part = f"{PINS}/{old}" if moment == "after stat" else PENDING_DELETE
    busy = InterruptedFiles(root, moment, part, put)

    collect_blobs(busy, pl.Series([], dtype=pl.String), time.time() - 3600, dry_run=False)

    assert busy.acted
    assert images_of(store) == {LARGE[0]}
    assert store.files.entries(PENDING_DELETE) == []


def test_what_a_killed_collection_was_about_to_delete_is_forgotten(
    store: Store, root: Path
) -> None:
    old = pack(store, LARGE[0])
    store.files.write(f"{PENDING_DELETE}/{old}.0", b"")
    make_older(root, 2)
    stored_anew = pack(store, LARGE[0])

    assert collected(store, [LARGE[0]]).files == 1
    assert stored_anew in packs_of(store)
    assert store.files.entries(PENDING_DELETE) == []


def test_of_two_copies_the_newer_stays(store: Store, root: Path) -> None:
    pack(store, LARGE[0])
    flip_bit_in_blob(store, sha(LARGE[0]))
    make_older(root, 2)
    mender = Store.open(store.url)
    mender.blobs.report_missing(sha(LARGE[0]))
    mender.blobs.put(LARGE[0])
    mender.blobs.flush()
    make_older(root, 2)

    assert collected(store, [LARGE[0]]).blobs == 1
    assert Store.open(store.url).blobs.get(sha(LARGE[0])) == LARGE[0]
    assert len(packs_of(store)) == 1


@pytest.mark.parametrize("newer", [[LARGE[0]], [LARGE[0], *LARGE[1:9]]])
@pytest.mark.parametrize("older", [[LARGE[0]], [LARGE[0], *LARGE[10:12]]])
def test_of_two_copies_the_one_that_is_intact_stays(
    older: list[bytes], newer: list[bytes], store: Store, root: Path
) -> None:
    second = two_copies(store, older, newer)
    flip_bit_in_blob(second, sha(LARGE[0]))
    make_older(root, 2)
    living = {LARGE[0], *newer}

    for _ in range(2):
        planned = collected(store, living, dry_run=True)
        assert collected(store, living) == planned
        assert readable(store, living)
        assert store.blobs.missing() == set()
        make_older(root, 2)


def test_a_spare_copy_that_is_damaged_is_not_kept_in_place_of_another(
    store: Store, root: Path
) -> None:
    second = two_copies(store, LARGE[:1], LARGE[:1])
    for name in sorted(packs_of(store)):
        flip(root / PACKS / name)
    make_older(root, 2)

    collected(second, LARGE[:1])

    # The newer pack is as it was: whoever reads the image finds out.
    assert len(packs_of(store)) == 1
    with pytest.raises(CorruptFileError):
        Store.open(store.url).blobs.get(sha(LARGE[0]))


def test_only_images_that_are_about_to_go_are_read(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_copies(store, [LARGE[0], *LARGE[10:12]], [LARGE[0], *LARGE[1:9]])
    make_older(root, 2)
    read: list[Location] = []

    def noted(files: Files, place: Location) -> bytes:
        read.append(place)
        return read_blob(files, place)

    monkeypatch.setattr(pack_gc, "read_blob", noted)

    collected(store, LARGE[:9])

    assert len(read) == 1, "the newer copy of the image, and none of the other eight"
    assert images_of(store) == set(LARGE[:9])


def test_a_damaged_image_of_which_an_older_pack_has_a_copy_is_not_lost(
    store: Store, root: Path
) -> None:
    second = two_copies(store, [LARGE[0], *LARGE[1:9]], [LARGE[0], *LARGE[10:12]])
    flip_bit_in_blob(second, sha(LARGE[0]))
    make_older(root, 2)

    collected(store, LARGE[:9])

    assert readable(store, LARGE[:9])
    assert store.blobs.missing() == set()


def test_a_damaged_image_is_not_copied_but_fetched_again(store: Store, root: Path) -> None:
    pack(store, *LARGE[:4])
    flip_bit_in_blob(store, sha(LARGE[0]))
    make_older(root, 2)

    collected(store, LARGE[:2])

    assert images_of(store) == {LARGE[1]}
    assert store.blobs.missing() == {sha(LARGE[0])}


def test_what_is_no_pack_is_left_for_a_person(store: Store, root: Path) -> None:
    name = pack(store, LARGE[0])
    (root / PACKS / name).write_bytes(b"?")
    make_older(root, 2)

    assert collected(store, []) == PackGcReport()
    assert packs_of(store) == {name}


def test_losses_of_images_that_nobody_has_are_forgotten(store: Store, root: Path) -> None:
    for image in LARGE[:2]:
        store.blobs.report_missing(sha(image))
    make_older(root, 2)

    assert collected(store, [LARGE[0]]).files == 1
    assert {entry.name for entry in store.files.entries(MISSING)} == {sha(LARGE[0])}


def test_index_files_of_packs_that_are_gone_go_later(store: Store, root: Path) -> None:
    blobs = Store.open(store.url).blobs
    for number in range(64):
        blobs.put(b"%d" % number)
        blobs.flush()
    assert len(store.files.entries(INDEXES)) == 1
    make_older(root, 2)

    assert collected(store, []).blobs == 64
    assert collected(store, []).files == 1
    assert store.files.entries(INDEXES) == []


def test_two_collections_at_once_lose_nothing(store: Store, root: Path) -> None:
    pack(store, *LARGE[:4])
    make_older(root, 2)
    busy = InterruptedFiles(root, "after part", PACKS, lambda: collected(store, LARGE[:2]))

    collect_blobs(
        busy, pl.Series([sha(image) for image in LARGE[:2]]), time.time() - 3600, dry_run=False
    )

    assert images_of(store) == set(LARGE[:2])
    assert [store.blobs.get(sha(image)) for image in LARGE[:2]] == LARGE[:2]


def test_packs_on_object_storage_are_collected(s3_root: str) -> None:
    files = open_files(s3_root)
    blobs = Blobs(files)
    blobs.put_many(LARGE[:4])
    blobs.flush()

    gone = collect_blobs(files, pl.Series([sha(LARGE[0])]), time.time() + 60, dry_run=False)

    assert gone.blobs == 3
    assert blobs.get(sha(LARGE[0])) == LARGE[0]
    assert images_of(Store.open(s3_root)) == {LARGE[0]}


def test_a_run_that_comes_upon_a_dead_image_keeps_it(store: Store, root: Path) -> None:
    pack(store, LARGE[0])
    make_older(root, 2)
    run = Store.open(store.url)
    run.blobs.put(LARGE[0])

    collected(store, [])
    run.blobs.flush()

    assert Store.open(store.url).blobs.get(sha(LARGE[0])) == LARGE[0]
