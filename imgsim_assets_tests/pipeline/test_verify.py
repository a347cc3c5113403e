from __future__ import annotations

from imgsim_assets.pipeline.repair import repair
from imgsim_assets.pipeline.verify import verify
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import sha256_of, tiny
from imgsim_assets_tests.support.damage import flip_bit_in_blob


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
