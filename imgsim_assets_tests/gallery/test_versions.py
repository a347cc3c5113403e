"""The galleries that a store keeps, and thumbnails that are made once."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.gallery import page, thumbnails
from imgsim_assets.gallery.thumbnail_table import ThumbnailTable
from imgsim_assets.gallery.thumbnails import StoredImages
from imgsim_assets.gallery.versions import keep_gallery
from imgsim_assets.images.decode import decode
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import MatchSettings
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import tables
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.file_ages import make_older
from imgsim_assets_tests.support.gallery_pages import GalleryPage

NAME = "matches/pair"
KEEP_ONE = RetentionPolicy(retain_last=1, min_age_hours=1)


def _match(store: Store, *seeds: int) -> int:
    """The version of a match table of these images with themselves."""
    images = {f"p{seed}": tiny(seed) for seed in seeds}
    for name in ("products", "suppliers"):
        indexed(store, name, images)
    settings = MatchSettings(threshold=0.99, mode="all")
    return MatchStage(store, "pair", settings, left="products", right="suppliers").run().version


def _read(url: str) -> GalleryPage:
    return GalleryPage.read(urlsplit(url).path)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of bytes of the images that are decoded for thumbnails."""
    seen: list[int] = []

    def counted(data: bytes, **options: object) -> object:
        seen.append(len(data))
        return decode(data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(thumbnails, "decode", counted)
    return seen


def test_each_version_has_a_page_of_the_same_bytes_whoever_writes_it(store: Store) -> None:
    version = _match(store, 1, 2)
    url = keep_gallery(store, NAME, version)
    first = Path(urlsplit(url).path).read_bytes()
    Path(urlsplit(url).path).unlink()

    again = keep_gallery(store, NAME, version)

    assert again == url
    assert Path(urlsplit(url).path).read_bytes() == first
    assert _read(url).column("left_id") == ["p1", "p2"]
    assert "2 pairs, threshold 0.99, version 1" in _read(url).text


def test_a_table_that_was_computed_again_at_the_same_version_has_a_new_page(store: Store) -> None:
    first = keep_gallery(store, NAME, _match(store, 1, 2))
    shutil.rmtree(Path(store.url) / NAME)

    version = _match(store, 2, 3)
    again = keep_gallery(store, NAME, version)

    assert version == 1
    assert again != first
    assert _read(again).column("left_id") == ["p2", "p3"]


def test_an_unchanged_table_writes_nothing_and_a_new_version_decodes_only_new_images(
    store: Store, decoded: list[int]
) -> None:
    keep_gallery(store, NAME, _match(store, 1, 2))
    assert len(decoded) == 2
    before = {path: path.stat().st_mtime_ns for path in Path(store.url).rglob("*.html")}
    commits = ThumbnailTable(store).table.versions()

    keep_gallery(store, NAME, _match(store, 1, 2))

    assert {path: path.stat().st_mtime_ns for path in Path(store.url).rglob("*.html")} == before
    assert ThumbnailTable(store).table.versions() == commits
    keep_gallery(store, NAME, _match(store, 1, 2, 3))
    assert len(decoded) == 3


def test_pages_leave_with_their_version_and_thumbnails_with_their_image(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(page._MAX_INSIDE, "pairs", 0)
    root = Path(store.url)
    keep_gallery(store, NAME, _match(store, 1, 2))
    newest = keep_gallery(store, NAME, _match(store, 2, 3))
    folder = root / "_galleries" / NAME
    assert len(list(folder.glob("*.html"))) == 2
    assert len(list((folder / "images").iterdir())) == 3
    assert len(collect_garbage(store, KEEP_ONE, dry_run=True).tables) > 0
    assert len(list(folder.glob("*.html"))) == 2  # too young
    make_older(root, 2)

    dry = collect_garbage(store, KEEP_ONE, dry_run=True)
    assert len(list(folder.glob("*.html"))) == 2
    report = collect_garbage(store, KEEP_ONE)

    assert [path.as_uri() for path in folder.glob("*.html")] == [newest]
    assert dry.files == report.files
    images = {f"images/{path.name}" for path in (folder / "images").iterdir()}
    assert images == set(_read(newest).images)
    assert len(images) == 2
    kept = ThumbnailTable(store).table
    rows = kept.read(tables.latest_commit(kept))
    assert {f"images/{sha256}.jpg" for sha256 in rows["sha256"]} == images


def test_galleries_leave_with_their_table(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(page._MAX_INSIDE, "pairs", 0)
    root = Path(store.url)
    keep_gallery(store, NAME, _match(store, 1, 2))
    shutil.rmtree(root / NAME)
    (root / "_galleries/matches/.tmp-interrupted").touch()
    collect_garbage(store, KEEP_ONE)
    assert len(list(root.glob("_galleries/**/*.html"))) == 1  # too young
    make_older(root, 2)

    collect_garbage(store, KEEP_ONE)

    assert not [path for path in root.glob("_galleries/**/*") if path.is_file()]


def test_damaged_thumbnails_are_made_again(store: Store, decoded: list[int]) -> None:
    digests = [store.blobs.put(tiny(seed)) for seed in range(2)]
    store.blobs.flush()
    images = StoredImages(store, keep=True)
    first = list(images.thumbnails(digests))
    table = ThumbnailTable(store).table
    (rows,) = tables.latest_commit(table).files_with_role()
    flip_bit(store, table, rows)

    assert list(images.thumbnails(digests)) == first
    assert list(images.thumbnails(digests)) == first
    assert len(decoded) == 4
    with pytest.raises(CorruptFileError):
        table.read_file(rows)


def test_unreadable_images_have_no_thumbnail_and_are_not_kept(store: Store) -> None:
    broken = store.blobs.put(b"broken")
    store.blobs.flush()

    missing, unreadable = StoredImages(store, keep=True).thumbnails(["0" * 64, broken])

    assert (missing.jpeg, unreadable.jpeg) == (None, None)
    assert ThumbnailTable(store).table.latest() is None
