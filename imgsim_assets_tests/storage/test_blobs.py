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


def put_and_flush(store: Store, *images: bytes) -> None:
    store.blobs.put_many(images)
    store.blobs.flush()


def reopened(store: Store) -> Store:
    """The store as another process sees it."""
    return Store.open(store.url)


# ---- putting and getting ----------------------------------------------------------------


def test_put_bytes_are_read_by_their_sha256(store: Store) -> None:
    assert store.blobs.put(IMAGE) == SHA256
    assert store.blobs.get(SHA256) == IMAGE
    store.blobs.flush()
    assert store.blobs.get(SHA256) == IMAGE


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(st.lists(st.binary(max_size=40), max_size=8), max_size=4))
def test_identical_bytes_are_stored_once(batches: list[list[bytes]]) -> None:
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


def test_blobs_are_visible_to_other_processes_after_flush(store: Store) -> None:
    reader = reopened(store).blobs
    store.blobs.put(IMAGE)
    with pytest.raises(CorruptFileError):
        reader.get(SHA256)

    store.blobs.flush()

    assert reader.get(SHA256) == IMAGE
    assert reader.contains([SHA256, "00" * 32]) == [True, False]


def test_catalogs_share_one_copy_of_an_image(store: Store) -> None:
    put_and_flush(store, IMAGE)
    put_and_flush(reopened(store), IMAGE)

    assert len(list_packs(store.files)) == 1


def test_flush_without_new_blobs_writes_nothing(store: Store) -> None:
    store.blobs.flush()
    put_and_flush(store, IMAGE)
    put_and_flush(store, IMAGE)
    store.blobs.flush()

    assert len(list_packs(store.files)) == 1


def test_a_full_pack_is_published_without_flush(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", 1000)
    for number in range(10):
        store.blobs.put(bytes([number]) * 300)
    assert len(list_packs(store.files)) == 2

    store.blobs.flush()

    assert len(list_packs(store.files)) == 3
    assert len(read_blobs(store)) == 10


def test_a_store_dropped_without_flush_leaves_no_files(tmp_path: Path) -> None:
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


def test_concurrent_threads_put_flush_and_read(
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


# ---- damaged and missing images ---------------------------------------------------------


def test_get_of_a_missing_image_names_it_and_the_fix(store: Store) -> None:
    with pytest.raises(CorruptFileError) as raised:
        store.blobs.get(SHA256)

    assert SHA256 in str(raised.value)
    assert str(store.url) in str(raised.value)
    assert "next run of the images asset fetches it again" in str(raised.value)


def test_get_of_a_missing_image_lists_the_packs_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_and_flush(store, IMAGE)
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


def test_get_never_returns_a_damaged_image(store: Store) -> None:
    put_and_flush(store, IMAGE)
    path = flip_bit_in_blob(store, SHA256)

    for blobs in (store.blobs, reopened(store).blobs):
        with pytest.raises(CorruptFileError, match="does not match its sha256") as raised:
            blobs.get(SHA256)
        assert str(path) in str(raised.value)


@pytest.mark.parametrize("left", [0, 1, 500, -1])
def test_get_never_returns_bytes_of_a_truncated_pack(store: Store, left: int) -> None:
    put_and_flush(store, IMAGE)
    [pack] = list_packs(store.files)
    path = Path(store.url) / PACKS / pack.name
    path.write_bytes(path.read_bytes()[:left])

    with pytest.raises(CorruptFileError):
        reopened(store).blobs.get(SHA256)

    put_and_flush(reopened(store), IMAGE)
    assert reopened(store).blobs.get(SHA256) == IMAGE


def test_a_missing_image_is_remembered_until_it_is_put_again(store: Store) -> None:
    put_and_flush(store, IMAGE)
    flip_bit_in_blob(store, SHA256)

    store.blobs.report_missing(SHA256)
    store.blobs.report_missing(SHA256)

    other = reopened(store)
    assert other.blobs.missing() == {SHA256}
    put_and_flush(other, IMAGE)
    assert other.blobs.missing() == reopened(store).blobs.missing() == set()
    for blobs in (store.blobs, other.blobs, reopened(store).blobs):
        assert blobs.get(SHA256) == IMAGE, "the damaged copy is skipped"


def test_an_image_whose_pack_is_gone_can_be_put_again(store: Store) -> None:
    put_and_flush(store, IMAGE)
    remove_blob(store, SHA256)
    with pytest.raises(CorruptFileError, match="is not in"):
        store.blobs.get(SHA256)
    store.blobs.report_missing(SHA256)

    put_and_flush(store, IMAGE)

    assert reopened(store).blobs.get(SHA256) == IMAGE


def test_an_empty_store_has_no_missing_images(store: Store) -> None:
    assert store.blobs.missing() == set()


def test_put_without_flush_keeps_the_image_marked_as_missing(store: Store) -> None:
    store.blobs.report_missing(SHA256)
    killed = reopened(store)
    killed.blobs.missing()
    killed.blobs.put(IMAGE)
    assert killed.blobs.missing() == set()
    del killed

    assert reopened(store).blobs.missing() == {SHA256}


# ---- failing disks ----------------------------------------------------------------------


class FailingFiles(LocalFiles):
    """Files on which no pack can be published."""

    fails = True

    def create_staged(self, path: str) -> StagedFile:
        staged = super().create_staged(path)
        real = staged.finish

        def finish() -> None:
            if self.fails and PACKS in path:
                raise OSError(28, "No space left on device")
            real()

        staged.finish = finish  # type: ignore[method-assign]
        return staged


def test_flush_keeps_failing_after_the_disk_failed(tmp_path: Path) -> None:
    files = FailingFiles(tmp_path)
    blobs = Blobs(files)
    blobs.put(IMAGE)
    with pytest.raises(OSError, match="No space left"):
        blobs.flush()
    files.fails = False

    with pytest.raises(OSError, match="No space left"):
        blobs.flush()

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    again = Blobs(files)
    again.put(IMAGE)
    again.flush()
    assert Blobs(files).get(SHA256) == IMAGE


def test_put_on_a_full_disk_leaves_no_empty_pack(
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
    """An error of an object store client, which is not an OSError."""


def test_a_failed_flush_never_writes_to_a_reused_file_descriptor(
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
    # Some of these reuse the descriptor numbers of closed files.
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


def test_a_failed_upload_is_retried_by_the_next_flush(monkeypatch: pytest.MonkeyPatch) -> None:
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


class NotifyingFiles(LocalFiles):
    """Files that call `act` after a pack was published."""

    act: Callable[[], object]

    def create_staged(self, path: str) -> StagedFile:
        staged = super().create_staged(path)
        real = staged.finish

        def finish() -> None:
            real()
            self.act()

        staged.finish = finish  # type: ignore[method-assign]
        return staged


def test_an_image_is_readable_while_its_pack_is_published(tmp_path: Path) -> None:
    files = NotifyingFiles(tmp_path)
    blobs = Blobs(files)
    read: list[bytes] = []
    files.act = lambda: read.append(blobs.get(SHA256))
    blobs.put(IMAGE)

    blobs.flush()

    assert read == [IMAGE]


def test_an_image_stays_marked_as_missing_until_it_is_published(tmp_path: Path) -> None:
    files = NotifyingFiles(tmp_path)
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


def test_get_never_returns_an_unpublished_image_that_is_damaged(
    tmp_path: Path,
) -> None:
    blobs = Blobs(LocalFiles(tmp_path))
    blobs.put(IMAGE)
    [temporary] = (tmp_path / PACKS).iterdir()
    temporary.write_bytes(b"?" * temporary.stat().st_size)

    with pytest.raises(CorruptFileError):
        blobs.get(SHA256)


# ---- concurrent garbage collection ------------------------------------------------------


def test_an_old_pack_is_pinned_when_its_image_is_put_again(store: Store) -> None:
    put_and_flush(store, IMAGE)
    [pack] = list_packs(store.files)
    assert store.files.entries(PINS) == []
    make_packs_older(store)
    other = reopened(store)

    other.blobs.put_many([IMAGE, IMAGE])
    other.blobs.put(IMAGE)

    [pin] = store.files.entries(PINS)
    assert pin.name == pack.name
    other.blobs.flush()
    assert len(list_packs(store.files)) == 1


def test_an_image_deleted_while_it_is_put_is_stored_again(tmp_path: Path) -> None:
    put_and_flush(Store.open(tmp_path), IMAGE)
    make_packs_older(Store.open(tmp_path))

    def delete_packs() -> None:
        for path in (tmp_path / PACKS).iterdir():
            path.unlink()

    blobs = Blobs(InterruptedFiles(tmp_path, "after write", PINS, delete_packs))
    blobs.put(IMAGE)
    blobs.flush()

    assert Store.open(tmp_path).blobs.get(SHA256) == IMAGE


def test_a_reader_finds_an_image_moved_to_another_pack(store: Store) -> None:
    put_and_flush(store, IMAGE)
    reader = reopened(store).blobs
    assert reader.get(SHA256) == IMAGE
    [pack] = list_packs(store.files)
    moved = reopened(store)
    moved.blobs.report_missing(SHA256)
    put_and_flush(moved, IMAGE)
    store.files.delete(f"{PACKS}/{pack.name}")

    assert reader.get(SHA256) == IMAGE


def make_packs_older(store: Store, seconds: float = PIN_AFTER_SECONDS + 60) -> None:
    long_ago = time.time() - seconds
    for entry in list_packs(store.files):
        os.utime(Path(store.url) / PACKS / entry.name, (long_ago, long_ago))
