from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage import packs
from imgsim_assets.storage.blobs import PIN_AFTER_SECONDS, PINS, Blobs
from imgsim_assets.storage.files import Entry, StagedFile
from imgsim_assets.storage.local_files import LocalFiles
from imgsim_assets.storage.packs import PACKS, list_packs
from imgsim_assets.storage.store import Store, open_files
from imgsim_assets_tests.support.damage import flip_bit_in_blob, read_blobs, remove_blob
from imgsim_assets_tests.support.interrupted import InterruptedFiles

IMAGE = b"bytes of an image" * 50
SHA256 = hashlib.sha256(IMAGE).hexdigest()


def stored(store: Store, *images: bytes) -> None:
    store.blobs.put_many(images)
    store.blobs.flush()


def reopened(store: Store) -> Store:
    """The store as another process sees it."""
    return Store.open(store.url)


# ---- putting and getting ----------------------------------------------------------------


def test_bytes_are_found_again_by_their_hash(store: Store) -> None:
    assert store.blobs.put(IMAGE) == SHA256
    assert store.blobs.get(SHA256) == IMAGE
    store.blobs.flush()
    assert store.blobs.get(SHA256) == IMAGE


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(st.lists(st.binary(max_size=40), max_size=8), max_size=4))
def test_the_same_bytes_are_stored_once(batches: list[list[bytes]]) -> None:
    files = open_files("memory://blobs-of-a-property-test")
    files_before = {entry.name for entry in list_packs(files)}
    blobs = Blobs(files)

    for images in batches:
        hashes = blobs.put_many(images)
        assert hashes == [hashlib.sha256(image).hexdigest() for image in images]
        assert [blobs.get(sha256) for sha256 in hashes] == images
        blobs.flush()
        assert [Blobs(files).get(sha256) for sha256 in hashes] == images

    new = [entry for entry in list_packs(files) if entry.name not in files_before]
    assert sum(len(packs.read_pack_entries(files, pack)) for pack in new) <= len(
        {image for images in batches for image in images}
    )
    for entry in list_packs(files):
        files.delete(f"{PACKS}/{entry.name}")


def test_others_see_what_was_put_after_a_flush(store: Store) -> None:
    reader = reopened(store).blobs
    store.blobs.put(IMAGE)
    with pytest.raises(CorruptFileError):
        reader.get(SHA256)

    store.blobs.flush()

    assert reader.get(SHA256) == IMAGE
    assert reader.contains([SHA256, "00" * 32]) == [True, False]


def test_all_catalogs_share_one_copy(store: Store) -> None:
    stored(store, IMAGE)
    stored(reopened(store), IMAGE)

    assert len(list_packs(store.files)) == 1


def test_a_flush_without_anything_new_writes_nothing(store: Store) -> None:
    store.blobs.flush()
    stored(store, IMAGE)
    stored(store, IMAGE)
    store.blobs.flush()

    assert len(list_packs(store.files)) == 1


def test_a_pack_is_put_in_place_once_it_is_full(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", 1000)
    for number in range(10):
        store.blobs.put(bytes([number]) * 300)
    assert len(list_packs(store.files)) == 2

    store.blobs.flush()

    assert len(list_packs(store.files)) == 3
    assert len(read_blobs(store)) == 10


def test_a_store_that_is_forgotten_leaves_nothing_half_written(tmp_path: Path) -> None:
    Store.open(tmp_path).blobs.put(IMAGE)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_blobs_on_object_storage_behave_like_local_ones(s3_root: str) -> None:
    blobs = Store.open(s3_root).blobs

    assert blobs.put(IMAGE) == blobs.put(IMAGE) == SHA256
    assert blobs.get(SHA256) == IMAGE
    blobs.flush()
    assert Store.open(s3_root).blobs.get(SHA256) == IMAGE
    blobs.report_missing(SHA256)
    assert blobs.missing() == {SHA256}
    blobs.put(IMAGE)
    assert blobs.missing() == set()
    blobs.flush()
    assert Store.open(s3_root).blobs.missing() == set()
    assert Store.open(s3_root).blobs.get(SHA256) == IMAGE
    with pytest.raises(CorruptFileError, match=f"{'00' * 32} is not in {s3_root}"):
        blobs.get("00" * 32)


def test_threads_may_put_flush_and_read_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", 5000)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(60):
                data = b"%d of %d" % (number, seed % 2) * 20
                sha256 = store.blobs.put(data)
                assert store.blobs.get(sha256) == data
                if number % 7 == seed:
                    store.blobs.flush()
                    assert reopened(store).blobs.get(sha256) == data
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    store.blobs.flush()

    assert failures == []
    assert len(read_blobs(store)) == 120
    assert sum(len(packs.read_pack_entries(store.files, p)) for p in list_packs(store.files)) == 120


# ---- damage and loss --------------------------------------------------------------------


def test_an_image_that_is_not_there_is_named_with_the_mend(store: Store) -> None:
    with pytest.raises(CorruptFileError) as refused:
        store.blobs.get(SHA256)

    assert SHA256 in str(refused.value)
    assert str(store.url) in str(refused.value)
    assert "next run of the images asset fetches it again" in str(refused.value)


def test_for_an_image_that_is_not_there_the_packs_are_listed_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(store, IMAGE)
    listed: list[str] = []
    real = store.files.entries

    def entries(folder: str) -> list[Entry]:
        listed.append(folder)
        return real(folder)

    monkeypatch.setattr(store.files, "entries", entries)

    for number in range(3):
        with pytest.raises(CorruptFileError):
            store.blobs.get(f"{number:064x}")

    assert listed.count(PACKS) == 3


def test_a_damaged_image_is_never_handed_out(store: Store) -> None:
    stored(store, IMAGE)
    path = flip_bit_in_blob(store, SHA256)

    for blobs in (store.blobs, reopened(store).blobs):
        with pytest.raises(CorruptFileError, match="does not match its sha256") as refused:
            blobs.get(SHA256)
        assert str(path) in str(refused.value)


@pytest.mark.parametrize("left", [0, 1, 500, -1])
def test_of_a_pack_that_was_cut_short_nothing_is_handed_out(store: Store, left: int) -> None:
    stored(store, IMAGE)
    [pack] = list_packs(store.files)
    path = Path(store.url) / PACKS / pack.name
    path.write_bytes(path.read_bytes()[:left])

    with pytest.raises(CorruptFileError):
        reopened(store).blobs.get(SHA256)

    stored(reopened(store), IMAGE)
    assert reopened(store).blobs.get(SHA256) == IMAGE


def test_a_lost_image_is_remembered_until_it_is_put_again(store: Store) -> None:
    stored(store, IMAGE)
    flip_bit_in_blob(store, SHA256)

    store.blobs.report_missing(SHA256)
    store.blobs.report_missing(SHA256)

    other = reopened(store)
    assert other.blobs.missing() == {SHA256}
    stored(other, IMAGE)
    assert other.blobs.missing() == reopened(store).blobs.missing() == set()
    for blobs in (store.blobs, other.blobs, reopened(store).blobs):
        assert blobs.get(SHA256) == IMAGE, "the damaged copy is passed over"


def test_an_image_whose_pack_is_gone_can_be_put_again(store: Store) -> None:
    stored(store, IMAGE)
    remove_blob(store, SHA256)
    with pytest.raises(CorruptFileError, match="is not in"):
        store.blobs.get(SHA256)
    store.blobs.report_missing(SHA256)

    stored(store, IMAGE)

    assert reopened(store).blobs.get(SHA256) == IMAGE


def test_nothing_is_lost_in_an_empty_store(store: Store) -> None:
    assert store.blobs.missing() == set()


def test_a_put_that_is_never_flushed_does_not_take_the_loss_back(store: Store) -> None:
    store.blobs.report_missing(SHA256)
    killed = reopened(store)
    killed.blobs.missing()
    killed.blobs.put(IMAGE)
    assert killed.blobs.missing() == set()
    del killed

    assert reopened(store).blobs.missing() == {SHA256}


# ---- disks that refuse ------------------------------------------------------------------


class Refusing(LocalFiles):
    """Files of which a pack cannot be put in place."""

    refuses = True

    def create_staged(self, path: str) -> StagedFile:
        staged = super().create_staged(path)
        real = staged.finish

        def finish() -> None:
            if self.refuses and PACKS in path:
                raise OSError(28, "No space left on device")
            real()

        staged.finish = finish  # type: ignore[method-assign]
        return staged


def test_after_a_failed_flush_nothing_can_be_acknowledged(tmp_path: Path) -> None:
    files = Refusing(tmp_path)
    blobs = Blobs(files)
    blobs.put(IMAGE)
    with pytest.raises(OSError, match="No space left"):
        blobs.flush()
    files.refuses = False

    with pytest.raises(OSError, match="No space left"):
        blobs.flush()

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    again = Blobs(files)
    again.put(IMAGE)
    again.flush()
    assert Blobs(files).get(SHA256) == IMAGE


def test_a_put_that_finds_the_disk_full_leaves_no_empty_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(LocalFiles(tmp_path))
    real = os.writev

    def takes_small_ones(descriptor: int, pieces: list[bytes]) -> int:
        if sum(map(len, pieces)) > 100:
            raise OSError(28, "No space left on device")
        return real(descriptor, pieces)

    with monkeypatch.context() as full:
        full.setattr(os, "writev", takes_small_ones)
        with pytest.raises(OSError, match="No space left"):
            blobs.put(IMAGE)
        blobs.flush()

    assert list_packs(LocalFiles(tmp_path)) == []
    blobs.put(IMAGE)
    blobs.flush()
    assert Blobs(LocalFiles(tmp_path)).get(SHA256) == IMAGE


class UnreachableError(Exception):
    """What the library of an object store raises, which is no OSError."""


def test_after_any_failure_no_other_file_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise UnreachableError("the disk")

    blobs = Blobs(LocalFiles(tmp_path / "store"))
    sha256 = blobs.put(IMAGE)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", unreachable)
        with pytest.raises(UnreachableError):
            blobs.flush()
    other = tmp_path / "other"
    other.write_bytes(b"of somebody else" * 100)
    # Some of these get the numbers of the files that were closed.
    descriptors = [os.open(other, os.O_RDWR) for _ in range(8)]
    try:
        with pytest.raises(CorruptFileError, match="is not in"):
            blobs.get(sha256)
        with pytest.raises(UnreachableError):
            blobs.flush()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert other.read_bytes() == b"of somebody else" * 100


def test_an_upload_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    files = open_files("memory://uploads-that-fail/store")
    blobs = Blobs(files)
    first, second, third = (b"%d" % number * 100 for number in range(3))
    sha256 = blobs.put(first)

    def unreachable(*_: object) -> None:
        raise UnreachableError("the object store")

    with monkeypatch.context() as patched:
        patched.setattr(files, "upload", unreachable)
        with pytest.raises(UnreachableError):
            blobs.flush()
        assert blobs.get(sha256) == first
        with pytest.raises(UnreachableError):
            blobs.put(second)
        with pytest.raises(UnreachableError):
            blobs.flush()
        assert list_packs(files) == []

    others = [blobs.put(second), blobs.put(third)]
    assert len(list_packs(files)) == 1
    blobs.flush()

    assert [Blobs(files).get(name) for name in (sha256, *others)] == [first, second, third]
    assert [len(packs.read_pack_entries(files, pack)) for pack in list_packs(files)] in (
        [1, 2],
        [2, 1],
    )


class Interrupting(LocalFiles):
    """Files that call `act` when a pack has just been put in place."""

    act: Callable[[], object]

    def create_staged(self, path: str) -> StagedFile:
        staged = super().create_staged(path)
        real = staged.finish

        def finish() -> None:
            real()
            self.act()

        staged.finish = finish  # type: ignore[method-assign]
        return staged


def test_an_image_is_read_while_its_pack_is_put_in_place(tmp_path: Path) -> None:
    files = Interrupting(tmp_path)
    blobs = Blobs(files)
    read: list[bytes] = []
    files.act = lambda: read.append(blobs.get(SHA256))
    blobs.put(IMAGE)

    blobs.flush()

    assert read == [IMAGE]


def test_a_loss_is_not_taken_back_before_the_image_is_in_place(tmp_path: Path) -> None:
    files = Interrupting(tmp_path)
    blobs = Blobs(files)
    blobs.report_missing(SHA256)
    files.act = lambda: blobs.put_many([IMAGE])
    blobs.put(b"another image")

    blobs.flush()

    assert Blobs(files).missing() == {SHA256}
    files.act = lambda: None
    blobs.flush()
    assert Blobs(files).missing() == set()
    assert Blobs(files).get(SHA256) == IMAGE


def test_an_image_that_is_damaged_before_it_is_in_place_is_never_handed_out(
    tmp_path: Path,
) -> None:
    blobs = Blobs(LocalFiles(tmp_path))
    blobs.put(IMAGE)
    [unfinished] = (tmp_path / PACKS).iterdir()
    unfinished.write_bytes(b"?" * unfinished.stat().st_size)

    with pytest.raises(CorruptFileError):
        blobs.get(SHA256)


# ---- beside a collection ----------------------------------------------------------------


def test_an_old_pack_is_marked_when_its_image_is_put_again(store: Store) -> None:
    stored(store, IMAGE)
    [pack] = list_packs(store.files)
    assert store.files.entries(PINS) == []
    grow_old(store)
    other = reopened(store)

    other.blobs.put_many([IMAGE, IMAGE])
    other.blobs.put(IMAGE)

    [mark] = store.files.entries(PINS)
    assert mark.name == pack.name
    other.blobs.flush()
    assert len(list_packs(store.files)) == 1


def test_an_image_that_is_collected_while_it_is_put_is_stored_anew(tmp_path: Path) -> None:
    stored(Store.open(tmp_path), IMAGE)
    grow_old(Store.open(tmp_path))

    def collect() -> None:
        for path in (tmp_path / PACKS).iterdir():
            path.unlink()

    blobs = Blobs(InterruptedFiles(tmp_path, "after write", PINS, collect))
    blobs.put(IMAGE)
    blobs.flush()

    assert Store.open(tmp_path).blobs.get(SHA256) == IMAGE


def test_a_reader_finds_what_was_moved_to_another_pack(store: Store) -> None:
    stored(store, IMAGE)
    reader = reopened(store).blobs
    assert reader.get(SHA256) == IMAGE
    [pack] = list_packs(store.files)
    moved = reopened(store)
    moved.blobs.report_missing(SHA256)
    stored(moved, IMAGE)
    store.files.delete(f"{PACKS}/{pack.name}")

    assert reader.get(SHA256) == IMAGE


def grow_old(store: Store, seconds: float = PIN_AFTER_SECONDS + 60) -> None:
    long_ago = time.time() - seconds
    for entry in list_packs(store.files):
        os.utime(Path(store.url) / PACKS / entry.name, (long_ago, long_ago))
