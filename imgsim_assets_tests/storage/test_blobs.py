from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.blobs import REFRESH_AFTER_SECONDS, Blobs, blob_path
from imgsim_assets.storage.files import open_files
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.interrupted import InterruptedFiles

IMAGE = b"bytes of a picture" * 50
SHA256 = hashlib.sha256(IMAGE).hexdigest()


def test_bytes_are_found_again_by_their_hash(store: Store) -> None:
    assert store.blobs.put(IMAGE) == SHA256
    assert store.blobs.get(SHA256) == IMAGE
    store.blobs.flush()


@settings(max_examples=30, deadline=None)
@given(images=st.lists(st.binary(max_size=40), max_size=8))
def test_the_same_bytes_are_stored_once(images: list[bytes]) -> None:
    files = open_files("memory://blobs-of-a-property-test")
    blobs = Blobs(files)

    hashes = [blobs.put(data) for data in images]

    assert len(set(hashes)) == len(set(images))
    assert [blobs.get(sha256) for sha256 in hashes] == images


def test_all_catalogues_share_one_copy(store: Store, tmp_path: Path) -> None:
    store.blobs.put(IMAGE)
    Store.open(tmp_path / "store").blobs.put(IMAGE)

    found = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]

    assert found == [_blob(tmp_path)]


def test_blobs_on_object_storage_behave_like_local_ones(s3_root: str) -> None:
    blobs = Store.open(s3_root).blobs

    assert blobs.put(IMAGE) == blobs.put(IMAGE) == SHA256
    assert blobs.get(SHA256) == IMAGE
    blobs.flush()
    blobs.report_lost(SHA256)
    assert blobs.lost() == {SHA256}
    with pytest.raises(CorruptFileError, match=f"{SHA256} is not in {s3_root}"):
        blobs.get(SHA256)
    blobs.put(IMAGE)
    assert blobs.lost() == set()
    assert blobs.get(SHA256) == IMAGE


def test_an_image_that_is_not_there_is_named_with_the_mend(store: Store) -> None:
    with pytest.raises(CorruptFileError) as refused:
        store.blobs.get(SHA256)

    assert SHA256 in str(refused.value)
    assert str(store.url) in str(refused.value)
    assert "next run of the images asset fetches it again" in str(refused.value)


@pytest.mark.parametrize("left", [b"", IMAGE[:1], IMAGE[:-1], IMAGE + b"\0", b"B" + IMAGE[1:]])
def test_a_damaged_image_is_never_handed_out(store: Store, tmp_path: Path, left: bytes) -> None:
    store.blobs.put(IMAGE)
    _blob(tmp_path).write_bytes(left)

    with pytest.raises(CorruptFileError, match="no longer matches its name") as refused:
        store.blobs.get(SHA256)

    assert str(_blob(tmp_path)) in str(refused.value)


@pytest.mark.parametrize("left", [b"", IMAGE[:-1]])
def test_what_a_power_loss_cut_short_is_written_anew(
    store: Store, tmp_path: Path, left: bytes
) -> None:
    store.blobs.put(IMAGE)
    _blob(tmp_path).write_bytes(left)

    store.blobs.put(IMAGE)

    assert store.blobs.get(SHA256) == IMAGE


def test_a_lost_image_is_remembered_until_it_is_put_again(store: Store, tmp_path: Path) -> None:
    store.blobs.put(IMAGE)
    _blob(tmp_path).write_bytes(b"B" + IMAGE[1:])

    store.blobs.report_lost(SHA256)
    store.blobs.report_lost(SHA256)

    assert Store.open(tmp_path / "store").blobs.lost() == {SHA256}
    assert not _blob(tmp_path).exists(), "a damaged image of the right size would be kept"
    store.blobs.put(IMAGE)
    assert store.blobs.lost() == set()
    assert store.blobs.get(SHA256) == IMAGE


def test_nothing_is_lost_in_an_empty_store(store: Store) -> None:
    assert store.blobs.lost() == set()


def test_a_put_that_was_cut_short_does_not_leave_its_image_lost_for_ever(tmp_path: Path) -> None:
    # Every later run would fetch the image again, and never be done with it.
    Store.open(tmp_path).blobs.report_lost(SHA256)
    killed = InterruptedFiles(tmp_path, "after write", f"/{SHA256}", _die)
    with pytest.raises(SystemExit):
        Blobs(killed).put(IMAGE)

    blobs = Store.open(tmp_path).blobs
    assert blobs.lost() == {SHA256}
    blobs.put(IMAGE)

    assert blobs.get(SHA256) == IMAGE
    assert blobs.lost() == set()


def test_an_old_image_that_is_put_again_looks_fresh_to_collection(
    store: Store, tmp_path: Path
) -> None:
    store.blobs.put(IMAGE)
    long_ago = time.time() - REFRESH_AFTER_SECONDS - 60
    os.utime(_blob(tmp_path), (long_ago, long_ago))

    store.blobs.put(IMAGE)

    assert _blob(tmp_path).stat().st_mtime > time.time() - 60


def test_an_image_that_is_collected_while_it_is_put_is_stored_anew(tmp_path: Path) -> None:
    path = tmp_path / blob_path(SHA256)
    Store.open(tmp_path).blobs.put(IMAGE)
    os.utime(path, (0, 0))

    Blobs(InterruptedFiles(tmp_path, "after stat", SHA256, path.unlink)).put(IMAGE)

    assert Store.open(tmp_path).blobs.get(SHA256) == IMAGE


def _blob(tmp_path: Path) -> Path:
    return tmp_path / "store" / blob_path(SHA256)


def _die() -> None:
    raise SystemExit
