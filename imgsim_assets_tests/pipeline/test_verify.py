from __future__ import annotations

from pathlib import Path

from imgsim_assets.pipeline.repair import repair
from imgsim_assets.pipeline.verify import verify
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import sha256_of, tiny
from imgsim_assets_tests.support.damage import flip_bit_in_blob
from imgsim_assets_tests.support.downloads import Catalog
from imgsim_assets_tests.support.images import jpeg


def stored(store: Store, *images: bytes) -> None:
    store.blobs.put_many(images)
    store.blobs.flush()


def test_damaged_copy_of_an_image_is_a_problem_until_the_repair(store: Store) -> None:
    image, other = tiny(1), tiny(2)
    stored(store, image, other)
    flip_bit_in_blob(store, sha256_of(image))

    [problem] = verify(Store.open(store.url)).problems
    assert sha256_of(image) in problem.message
    mender = Store.open(store.url)
    mender.blobs.report_missing(sha256_of(image))
    stored(mender, image)
    assert mender.blobs.missing() == set()
    [problem] = verify(Store.open(store.url)).problems
    assert "--repair" in problem.message

    [done] = repair(Store.open(store.url))

    assert "kept 1 of 2 images" in done.action
    assert verify(Store.open(store.url)).problems == []
    repaired = Store.open(store.url)
    assert [repaired.blobs.get(sha256_of(data)) for data in (image, other)] == [image, other]


def test_changed_file_that_stays_where_it_lies_is_a_problem(tmp_path: Path) -> None:
    catalog = Catalog(Store.open(tmp_path / "store"), tmp_path)
    for name, seed in (("a.jpg", 1), ("b.jpg", 2)):
        (tmp_path / name).write_bytes(jpeg(seed))
    catalog.declare({"a": "a.jpg", "b": "b.jpg"})
    catalog.run()
    report = verify(Store.open(tmp_path / "store"))
    assert (report.problems, report.blobs) == ([], 2)

    (tmp_path / "a.jpg").write_bytes(jpeg(3))
    (tmp_path / "b.jpg").unlink()

    first, second = verify(Store.open(tmp_path / "store")).problems
    assert f"item 'a': {tmp_path / 'a.jpg'} has changed since it was read" in first.message
    assert f"item 'b': {tmp_path / 'b.jpg'} cannot be read any more" in second.message
    catalog.run()
    assert verify(Store.open(tmp_path / "store")).problems == []
    assert catalog.statuses() == {"a": "ok", "b": "missing_file"}
