from __future__ import annotations

import polars as pl
import pytest

from imgsim_assets.errors import StoreError
from imgsim_assets.similarity.evidence import compare_pairs, features
from imgsim_assets.similarity.evidence.compare_pairs import PAIR_SCHEMA, evidence_for
from imgsim_assets.similarity.evidence.table import FeatureTable
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import sha256_of
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.fresh_python import printed_lines
from imgsim_assets_tests.support.scenes import jpeg, png, scene
from imgsim_assets_tests.support.tables import latest_commit


def put(store: Store, *images: bytes) -> list[str]:
    names = store.blobs.put_many(images)
    store.blobs.flush()
    return names


def pairs(*rows: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["left_sha256", "right_sha256"], orient="row")


def test_tier_of_every_pair_whatever_its_order(store: Store) -> None:
    original, same_pixels = png(scene(1)), png(scene(1)) + b"trailing"
    names = put(store, original, same_pixels, jpeg(scene(1)), png(scene(2)))
    a, b, c, d = names

    found = evidence_for(store, pairs((a, a), (a, b), (b, a), (c, a), (a, d), (d, c)))

    tiers = {
        frozenset(names.index(end) for end in row[:2]): row[2] for row in found.pairs.iter_rows()
    }
    assert tiers == {
        frozenset({0, 1}): "same_pixels",
        frozenset({0, 2}): "aligned",
        frozenset({0, 3}): "similar",
        frozenset({2, 3}): "similar",
    }
    assert found.pairs.schema == PAIR_SCHEMA
    assert found.compared == 4
    assert found.images == 4


def test_known_pairs_are_not_compared_again(store: Store) -> None:
    a, b, c = put(store, png(scene(1)), jpeg(scene(1)), png(scene(2)))
    first = evidence_for(store, pairs((a, b)))

    second = evidence_for(store, pairs((b, a), (b, c)), first.pairs)

    assert (second.compared, second.images) == (1, 1)
    assert second.pairs.equals(evidence_for(store, pairs((a, b), (b, c))).pairs)


def test_known_pairs_that_are_not_asked_for_are_left_out(store: Store) -> None:
    a, b, c = put(store, png(scene(1)), jpeg(scene(1)), png(scene(2)))
    known = evidence_for(store, pairs((a, b), (a, c))).pairs

    assert evidence_for(store, pairs((a, c)), known).pairs.height == 1


def test_features_are_computed_once(store: Store) -> None:
    a, b = put(store, png(scene(1)), jpeg(scene(1)))

    assert evidence_for(store, pairs((a, b))).images == 2
    assert evidence_for(store, pairs((a, b))).images == 0


@pytest.mark.parametrize("in_memory", [2, 4, 100])
@pytest.mark.parametrize("workers", [1, 4])
def test_batches_order_and_threads_do_not_change_the_outcome(
    store: Store, monkeypatch: pytest.MonkeyPatch, in_memory: int, workers: int
) -> None:
    images = [png(scene(1)), jpeg(scene(1)), jpeg(scene(1), 30), png(scene(2)), jpeg(scene(2))]
    names = put(store, *images)
    every = [(a, b) for at, a in enumerate(names) for b in names[:at]]
    expected = evidence_for(store, pairs(*every)).pairs
    other = Store.open(f"{store.url}-other")
    put(other, *images)
    monkeypatch.setattr(compare_pairs, "_IMAGES_IN_MEMORY", in_memory)
    monkeypatch.setattr(compare_pairs, "_IMAGES_PER_COMMIT", 2)
    monkeypatch.setattr(compare_pairs, "_PAIRS_PER_TASK", 1)
    monkeypatch.setattr("imgsim_assets.similarity.threads.worker_count", lambda: workers)

    found = evidence_for(other, pairs(*((b, a) for a, b in reversed(every)))).pairs

    assert found.equals(expected)


def test_image_that_cannot_be_decoded_is_similar_at_most(store: Store) -> None:
    a, b = put(store, png(scene(1)), b"no image")

    found = evidence_for(store, pairs((a, b)))

    assert found.pairs["evidence"].to_list() == ["similar"]
    assert evidence_for(store, pairs((a, b))).images == 0


def test_image_whose_bytes_are_lost_stops_the_comparison_and_is_reported(store: Store) -> None:
    (a,) = put(store, png(scene(1)))
    lost = sha256_of(b"lost")

    with pytest.raises(StoreError, match=f"bytes of 1 image: image {lost}.*fetches it again"):
        evidence_for(store, pairs((a, lost)))

    assert store.blobs.missing() == {lost}


def test_damaged_features_are_computed_again(store: Store) -> None:
    a, b = put(store, png(scene(1)), jpeg(scene(1)))
    expected = evidence_for(store, pairs((a, b)))
    table = FeatureTable(store).table
    flip_bit(store, table, latest_commit(table).files_with_role()[0])

    found = evidence_for(store, pairs((a, b)))

    assert found.images == 2
    assert found.pairs.equals(expected.pairs)


def test_missing_opencv_is_one_message_with_the_command() -> None:
    script = (
        "import sys; sys.modules['cv2'] = None\n"
        "from imgsim_assets.similarity.evidence.features import features_fingerprint\n"
        "from imgsim_assets.errors import SettingsError\n"
        "try: features_fingerprint()\n"
        "except SettingsError as error: print(error)\n"
    )

    (message,) = printed_lines(script)

    assert message.endswith("run: pip install 'imgsim_assets[evidence]'")


def test_fingerprint_names_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    before = features.features_fingerprint()
    features.features_fingerprint.cache_clear()
    monkeypatch.setattr(features, "MAX_POINTS", 100)
    try:
        assert features.features_fingerprint() != before
    finally:
        features.features_fingerprint.cache_clear()
