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
from imgsim_assets.storage.pack_index import Location
from imgsim_assets.storage.packs import PACKS, list_packs
from imgsim_assets.storage.sorted_runs import INDEXES
from imgsim_assets.storage.store import Store, open_files
from imgsim_assets_tests.support.damage import flip_bit_in_blob, read_blobs
from imgsim_assets_tests.support.file_ages import make_older
from imgsim_assets_tests.support.interrupted import InterruptedFiles

LARGE = [bytes([number]) * 1000 for number in range(20)]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pack(store: Store, *images: bytes) -> str:
    """Store images in a pack of their own; its name."""
    before = {entry.name for entry in list_packs(store.files)}
    writer = Store.open(store.url)
    writer.blobs.put_many(images)
    writer.blobs.flush()
    [name] = {entry.name for entry in list_packs(store.files)} - before
    return name


def collect(store: Store, referenced: Iterable[bytes], *, dry_run: bool = False) -> PackGcReport:
    names = pl.Series([sha256(image) for image in referenced], dtype=pl.String)
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
    return all(reader.blobs.get(sha256(image)) == image for image in images)


def flip(path: Path) -> None:
    """Change one bit of the first image of a pack."""
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)


def pack_names(store: Store) -> set[str]:
    return {entry.name for entry in list_packs(store.files)}


def stored_images(store: Store) -> set[bytes]:
    return set(read_blobs(store).values())


@pytest.fixture
def root(store: Store) -> Path:
    return Path(store.url)


def test_a_pack_without_referenced_images_is_deleted(store: Store, root: Path) -> None:
    pack(store, LARGE[0], LARGE[1])
    kept = pack(store, LARGE[2])
    size = sum(entry.size for entry in list_packs(store.files) if entry.name != kept)
    make_older(root, 2)

    assert collect(store, [LARGE[2]]) == PackGcReport(blobs=2, bytes=size)
    assert pack_names(store) == {kept}


def test_a_sparse_pack_is_rewritten(store: Store, root: Path) -> None:
    old = pack(store, *LARGE[:4])
    make_older(root, 2)
    reader = Store.open(store.url).blobs
    assert reader.get(sha256(LARGE[0])) == LARGE[0]

    report = collect(store, LARGE[:2])

    assert report.blobs == 2
    assert stored_images(store) == set(LARGE[:2])
    assert old not in pack_names(store)
    assert reader.get(sha256(LARGE[0])) == LARGE[0]
    assert collect(store, LARGE[:2]) == PackGcReport()


def test_a_mostly_referenced_pack_is_kept(store: Store, root: Path) -> None:
    old = pack(store, *LARGE[:4])
    make_older(root, 2)

    assert collect(store, LARGE[:3]) == PackGcReport()
    assert pack_names(store) == {old}


def test_many_small_packs_are_merged(store: Store, root: Path) -> None:
    for number in range(10):
        pack(store, LARGE[number])
    make_older(root, 2)

    report = collect(store, LARGE[:10])

    assert report.blobs == 0
    assert len(pack_names(store)) == 1
    assert stored_images(store) == set(LARGE[:10])
    make_older(root, 2)
    collect(store, LARGE[:10])
    assert len(pack_names(store)) == 1


def test_gc_holds_few_pack_indexes_in_memory(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        pack(store, LARGE[number])
    make_older(root, 2)
    seen: list[weakref.ref[packs.PackEntries]] = []
    held: list[int] = []

    def tracked(*arguments: Any) -> packs.PackEntries:
        entries = packs.read_pack_entries(*arguments)
        seen.append(weakref.ref(entries))
        held.append(sum(one() is not None for one in seen))
        return entries

    monkeypatch.setattr(pack_gc, "read_pack_entries", tracked)

    collect(store, LARGE[:10])

    assert stored_images(store) == set(LARGE[:10])
    assert max(held) <= 2


def test_few_small_packs_are_kept(store: Store, root: Path) -> None:
    names = {pack(store, LARGE[number]) for number in range(5)}
    make_older(root, 2)

    collect(store, LARGE[:5])

    assert pack_names(store) == names


def test_rewritten_images_fill_packs_of_full_size(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        pack(store, LARGE[number])
    make_older(root, 2)
    for module in (pack_gc, packs):
        monkeypatch.setattr(module, "PACK_BYTES", 4500)

    planned = collect(store, LARGE[:12], dry_run=True)
    report = collect(store, LARGE[:12])

    assert planned == report
    assert len(pack_names(store)) == 3
    assert stored_images(store) == set(LARGE[:12])


def test_young_and_pinned_packs_are_kept(store: Store, root: Path) -> None:
    used = pack(store, LARGE[0])
    make_older(root, 2)
    store.files.write(f"{PINS}/{used}", b"")
    young = pack(store, LARGE[1])

    assert collect(store, []) == PackGcReport()
    assert pack_names(store) == {used, young}
    make_older(root, 2)
    assert collect(store, []).blobs == 2
    assert pack_names(store) == set()
    assert store.files.entries(PINS) == []


def test_a_pack_pinned_while_it_is_rewritten_is_kept(store: Store, root: Path) -> None:
    old = pack(store, *LARGE[:3])
    make_older(root, 2)
    interrupted = InterruptedFiles(
        root, "after part", f"{PACKS}/{old}", lambda: store.files.write(f"{PINS}/{old}", b"")
    )

    collect_blobs(interrupted, pl.Series([sha256(LARGE[0])]), time.time() - 3600, dry_run=False)

    assert old in pack_names(store)
    assert stored_images(store) == set(LARGE[:3])


@pytest.mark.parametrize("moment", ["after write", "after stat"])
def test_an_image_put_while_its_pack_is_deleted_is_kept(
    store: Store, root: Path, moment: str
) -> None:
    old = pack(store, LARGE[0])
    make_older(root, 2)
    run = Store.open(store.url)

    def put() -> None:
        run.blobs.put(LARGE[0])
        run.blobs.flush()

    part = f"{PINS}/{old}" if moment == "after stat" else PENDING_DELETE
    interrupted = InterruptedFiles(root, moment, part, put)

    collect_blobs(interrupted, pl.Series([], dtype=pl.String), time.time() - 3600, dry_run=False)

    assert interrupted.acted
    assert stored_images(store) == {LARGE[0]}
    assert store.files.entries(PENDING_DELETE) == []


def test_deletion_markers_of_a_killed_gc_are_deleted(store: Store, root: Path) -> None:
    old = pack(store, LARGE[0])
    store.files.write(f"{PENDING_DELETE}/{old}.0", b"")
    make_older(root, 2)
    stored_again = pack(store, LARGE[0])

    assert collect(store, [LARGE[0]]).files == 1
    assert stored_again in pack_names(store)
    assert store.files.entries(PENDING_DELETE) == []


def test_the_newer_of_two_copies_is_kept(store: Store, root: Path) -> None:
    pack(store, LARGE[0])
    flip_bit_in_blob(store, sha256(LARGE[0]))
    make_older(root, 2)
    writer = Store.open(store.url)
    writer.blobs.report_missing(sha256(LARGE[0]))
    writer.blobs.put(LARGE[0])
    writer.blobs.flush()
    make_older(root, 2)

    assert collect(store, [LARGE[0]]).blobs == 1
    assert Store.open(store.url).blobs.get(sha256(LARGE[0])) == LARGE[0]
    assert len(pack_names(store)) == 1


@pytest.mark.parametrize("newer", [[LARGE[0]], [LARGE[0], *LARGE[1:9]]])
@pytest.mark.parametrize("older", [[LARGE[0]], [LARGE[0], *LARGE[10:12]]])
def test_the_intact_one_of_two_copies_is_kept(
    older: list[bytes], newer: list[bytes], store: Store, root: Path
) -> None:
    second = two_copies(store, older, newer)
    flip_bit_in_blob(second, sha256(LARGE[0]))
    make_older(root, 2)
    referenced = {LARGE[0], *newer}

    for _ in range(2):
        planned = collect(store, referenced, dry_run=True)
        assert collect(store, referenced) == planned
        assert readable(store, referenced)
        assert store.blobs.missing() == set()
        make_older(root, 2)


def test_a_damaged_duplicate_does_not_replace_a_damaged_copy(store: Store, root: Path) -> None:
    second = two_copies(store, LARGE[:1], LARGE[:1])
    for name in sorted(pack_names(store)):
        flip(root / PACKS / name)
    make_older(root, 2)

    collect(second, LARGE[:1])

    # The newer pack is kept as it is; a reader detects the damage.
    assert len(pack_names(store)) == 1
    with pytest.raises(CorruptFileError):
        Store.open(store.url).blobs.get(sha256(LARGE[0]))


def test_gc_reads_only_duplicates_of_packs_to_delete(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_copies(store, [LARGE[0], *LARGE[10:12]], [LARGE[0], *LARGE[1:9]])
    make_older(root, 2)
    read: list[Location] = []

    def recorded(files: Files, location: Location) -> bytes:
        read.append(location)
        return read_blob(files, location)

    monkeypatch.setattr(pack_gc, "read_blob", recorded)

    collect(store, LARGE[:9])

    assert len(read) == 1, "the newer copy of the image, and none of the other eight"
    assert stored_images(store) == set(LARGE[:9])


def test_a_damaged_image_with_an_older_intact_copy_is_not_missing(store: Store, root: Path) -> None:
    second = two_copies(store, [LARGE[0], *LARGE[1:9]], [LARGE[0], *LARGE[10:12]])
    flip_bit_in_blob(second, sha256(LARGE[0]))
    make_older(root, 2)

    collect(store, LARGE[:9])

    assert readable(store, LARGE[:9])
    assert store.blobs.missing() == set()


def test_a_damaged_image_is_reported_missing_instead_of_copied(store: Store, root: Path) -> None:
    pack(store, *LARGE[:4])
    flip_bit_in_blob(store, sha256(LARGE[0]))
    make_older(root, 2)

    collect(store, LARGE[:2])

    assert stored_images(store) == {LARGE[1]}
    assert store.blobs.missing() == {sha256(LARGE[0])}


def test_a_file_that_is_not_a_pack_is_kept(store: Store, root: Path) -> None:
    name = pack(store, LARGE[0])
    (root / PACKS / name).write_bytes(b"?")
    make_older(root, 2)

    assert collect(store, []) == PackGcReport()
    assert pack_names(store) == {name}


def test_missing_markers_of_unreferenced_images_are_deleted(store: Store, root: Path) -> None:
    for image in LARGE[:2]:
        store.blobs.report_missing(sha256(image))
    make_older(root, 2)

    assert collect(store, [LARGE[0]]).files == 1
    assert {entry.name for entry in store.files.entries(MISSING)} == {sha256(LARGE[0])}


def test_index_files_of_deleted_packs_are_deleted_later(store: Store, root: Path) -> None:
    blobs = Store.open(store.url).blobs
    for number in range(64):
        blobs.put(b"%d" % number)
        blobs.flush()
    assert len(store.files.entries(INDEXES)) == 1
    make_older(root, 2)

    assert collect(store, []).blobs == 64
    assert collect(store, []).files == 1
    assert store.files.entries(INDEXES) == []


def test_two_concurrent_gcs_lose_nothing(store: Store, root: Path) -> None:
    pack(store, *LARGE[:4])
    make_older(root, 2)
    interrupted = InterruptedFiles(root, "after part", PACKS, lambda: collect(store, LARGE[:2]))

    collect_blobs(
        interrupted,
        pl.Series([sha256(image) for image in LARGE[:2]]),
        time.time() - 3600,
        dry_run=False,
    )

    assert stored_images(store) == set(LARGE[:2])
    assert [store.blobs.get(sha256(image)) for image in LARGE[:2]] == LARGE[:2]


def test_gc_of_packs_on_object_storage(s3_root: str) -> None:
    files = open_files(s3_root)
    blobs = Blobs(files)
    blobs.put_many(LARGE[:4])
    blobs.flush()

    report = collect_blobs(files, pl.Series([sha256(LARGE[0])]), time.time() + 60, dry_run=False)

    assert report.blobs == 3
    assert blobs.get(sha256(LARGE[0])) == LARGE[0]
    assert stored_images(Store.open(s3_root)) == {LARGE[0]}


def test_putting_an_unreferenced_image_again_keeps_it(store: Store, root: Path) -> None:
    pack(store, LARGE[0])
    make_older(root, 2)
    run = Store.open(store.url)
    run.blobs.put(LARGE[0])

    collect(store, [])
    run.blobs.flush()

    assert Store.open(store.url).blobs.get(sha256(LARGE[0])) == LARGE[0]
