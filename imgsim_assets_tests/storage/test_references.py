from __future__ import annotations

import hashlib
import os
from pathlib import Path

import fsspec
import polars as pl
import pytest

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.pack_gc import collect_blobs
from imgsim_assets.storage.packs import PACKS, list_packs, verify_pack
from imgsim_assets.storage.references import Reference, current_version, is_reference_pack
from imgsim_assets.storage.store import Store

IMAGE = b"bytes of an image" * 50
DIGEST = hashlib.sha256(IMAGE).digest()
SHA256 = DIGEST.hex()
LATER = 2e10


def reference(path: Path) -> Reference:
    return Reference(str(path), path.stat().st_size, current_version(str(path)))


def file(folder: Path, name: str = "a.jpg", data: bytes = IMAGE) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def put(store: Store, path: Path) -> None:
    store.blobs.put_references([(DIGEST, reference(path))])


def names(*sha256: str) -> pl.Series:
    return pl.Series(sha256, dtype=pl.String)


def test_image_is_read_where_it_lies(store: Store, tmp_path: Path) -> None:
    put(store, file(tmp_path))

    assert store.blobs.get(SHA256) == IMAGE
    store.blobs.flush()
    reopened = Store.open(store.url)
    assert reopened.blobs.contains([SHA256]) == [True]
    assert reopened.blobs.get(SHA256) == IMAGE
    [pack] = list_packs(store.files)
    assert is_reference_pack(pack.name)
    assert pack.size < len(IMAGE)


def test_image_of_an_object_store_is_read_where_it_lies(store: Store) -> None:
    url = "memory://references/a.jpg"
    with fsspec.open(url, "wb") as opened:
        opened.write(IMAGE)
    store.blobs.put_references([(DIGEST, Reference(url, len(IMAGE), current_version(url)))])

    assert store.blobs.get(SHA256) == IMAGE


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("other", [IMAGE[:-1] + b"X", IMAGE + b"X", b""])
def test_changed_file_is_never_returned(
    store: Store, tmp_path: Path, other: bytes, flushed: bool
) -> None:
    path = file(tmp_path)
    status = path.stat()
    put(store, path)
    if flushed:
        store.blobs.flush()
    path.write_bytes(other)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    with pytest.raises(CorruptFileError, match=r"a\.jpg has changed since it was read"):
        store.blobs.get(SHA256)


def test_deleted_file_is_named(store: Store, tmp_path: Path) -> None:
    put(store, file(tmp_path))
    (tmp_path / "a.jpg").unlink()

    with pytest.raises(CorruptFileError, match=r"a\.jpg cannot be read any more .*FileNotFound"):
        store.blobs.get(SHA256)


def test_touched_file_with_the_same_bytes_is_returned(store: Store, tmp_path: Path) -> None:
    put(store, file(tmp_path))
    os.utime(tmp_path / "a.jpg", (1, 1))

    assert store.blobs.get(SHA256) == IMAGE


def test_second_path_replaces_the_first_one_that_is_gone(store: Store, tmp_path: Path) -> None:
    put(store, file(tmp_path, "a.jpg"))
    store.blobs.flush()
    put(store, file(tmp_path, "b.jpg"))  # the first one is good
    store.blobs.flush()
    assert len(list_packs(store.files)) == 1
    (tmp_path / "a.jpg").unlink()

    put(store, tmp_path / "b.jpg")

    store.blobs.flush()
    assert Store.open(store.url).blobs.get(SHA256) == IMAGE


def test_copy_is_stored_beside_a_reference(store: Store, tmp_path: Path) -> None:
    put(store, file(tmp_path))
    store.blobs.flush()

    store.blobs.put(IMAGE)

    store.blobs.flush()
    (tmp_path / "a.jpg").unlink()
    assert Store.open(store.url).blobs.get(SHA256) == IMAGE


@pytest.mark.parametrize("damaged", [False, True])
def test_damaged_reference_is_noticed(store: Store, tmp_path: Path, damaged: bool) -> None:
    put(store, file(tmp_path))
    store.blobs.flush()
    [pack] = list_packs(store.files)
    path = Path(store.url) / PACKS / pack.name
    data = bytearray(path.read_bytes())
    data[60] ^= damaged
    path.write_bytes(data)

    assert verify_pack(store.files, pack) == (1, [SHA256] if damaged else [])
    if damaged:
        with pytest.raises(CorruptFileError):
            Store.open(store.url).blobs.get(SHA256)


# ---- garbage collection -----------------------------------------------------------------


def test_gc_keeps_what_rows_of_each_kind_refer_to(store: Store, tmp_path: Path) -> None:
    put(store, file(tmp_path))
    store.blobs.put(IMAGE)
    store.blobs.flush()

    collect_blobs(store.files, names(), LATER, in_place=names(SHA256), dry_run=False)

    assert [is_reference_pack(pack.name) for pack in list_packs(store.files)] == [True]
    assert Store.open(store.url).blobs.get(SHA256) == IMAGE


def test_gc_keeps_the_copy_of_other_catalogs(store: Store, tmp_path: Path) -> None:
    put(store, file(tmp_path))
    store.blobs.put(IMAGE)
    store.blobs.flush()

    collect_blobs(store.files, names(SHA256), LATER, in_place=names(), dry_run=False)

    (tmp_path / "a.jpg").unlink()
    assert Store.open(store.url).blobs.get(SHA256) == IMAGE


def test_gc_merges_packs_of_references(store: Store, tmp_path: Path) -> None:
    digests = []
    for number in range(10):
        data = IMAGE + bytes([number])
        path = file(tmp_path, f"{number}.jpg", data)
        digests.append(hashlib.sha256(data).digest())
        store.blobs.put_references([(digests[-1], reference(path))])
        store.blobs.flush()

    in_place = names(*(digest.hex() for digest in digests))
    collect_blobs(store.files, names(), LATER, in_place=in_place, dry_run=False)

    [pack] = list_packs(store.files)
    assert is_reference_pack(pack.name)
    blobs = Store.open(store.url).blobs
    assert [blobs.get(digest.hex())[-1] for digest in digests] == list(range(10))
