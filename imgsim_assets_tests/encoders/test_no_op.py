"""What a run of the embeddings reads: its shard's rows, and vectors only for what they lack."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import Any

import pytest

from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.report import EmbeddingReport
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.pipeline.invariants import embeddings_invariants
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.gc import GENERATION, collect_garbage
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.shards import Shard, shard_index
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, embed_shards, fill, fill_shard, tiny
from imgsim_assets_tests.support.counting_files import CountingFiles
from imgsim_assets_tests.support.damage import flip_bit

_VECTORS = f"shop/vectors/{fingerprint(THUMBNAIL)}"
_SHARD = Shard(0, 4)


def _catalog(store: Store, shards: int, items_per_shard: int = 4) -> dict[str, bytes]:
    """A catalog with that many items in each shard, embedded."""
    ids: dict[int, list[str]] = {index: [] for index in range(shards)}
    number = 0
    while any(len(found) < items_per_shard for found in ids.values()):
        found = ids[shard_index(f"i{number}", shards)]
        if len(found) < items_per_shard:
            found.append(f"i{number}")
        number += 1
    names = [item for found in ids.values() for item in found]
    images = {item: tiny(seed) for seed, item in enumerate(names)}
    embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", images, shards))
    return images


def _no_op(store: Store, shard: Shard) -> tuple[EmbeddingReport, CountingFiles]:
    """Run and check one shard in a store that counts."""
    files = CountingFiles(store.files)
    counted = Store(files)
    report = EmbeddingStage(counted, "shop", THUMBNAIL).run(shard)
    (check,) = embeddings_invariants(counted, "shop", [shard]).values()
    assert check.passed
    return report, files


@pytest.mark.parametrize("shards", [2, 16])
def test_run_without_a_change_reads_the_rows_of_its_shard_alone(shards: int, store: Store) -> None:
    _catalog(store, shards)
    shard = Shard(1, shards)
    own: Counter[str] = Counter()
    for table, times in (("shop/images", 1), ("shop/embeddings", 2)):
        commit = store.table(table).latest()
        assert commit is not None
        own[table] = times * sum(file.bytes for file in commit.files_of_shard(shard))

    report, files = _no_op(store, shard)

    assert (report.embedded, report.changed) == (0, False)
    assert files.rows == own


def test_only_new_images_are_looked_up_in_the_vectors(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = _catalog(store, 4)
    added = next(f"n{n}" for n in range(99) if shard_index(f"n{n}", 4) == _SHARD.index)
    fill_shard(store, "shop", {**images, added: tiny(999)}, _SHARD)
    looked_up: list[set[str]] = []
    missing = VectorTable.missing

    def noted(table: VectorTable, wanted: Any) -> set[str]:
        looked_up.append(set(wanted))
        return missing(table, wanted)

    monkeypatch.setattr(VectorTable, "missing", noted)

    (report,) = embed_shards(store, "shop", THUMBNAIL, [_SHARD])

    assert (report.embedded, report.usable_items) == (1, 5)
    assert [len(wanted) for wanted in looked_up] == [1]


def test_vectors_of_an_earlier_version_are_looked_up_once(store: Store) -> None:
    _catalog(store, 4)

    def without_generation(base: Commit | None) -> PendingCommit:
        assert base is not None
        properties = {key: value for key, value in base.properties.items() if key != GENERATION}
        return PendingCommit(base.files, base.inputs, properties)

    VectorTable(store, "shop", fingerprint(THUMBNAIL)).table.commit(without_generation)

    _, first = _no_op(store, _SHARD)
    _, second = _no_op(store, _SHARD)

    assert (_VECTORS in first.rows, _VECTORS in second.rows) == (True, False)


def _drop_all(store: Store) -> None:
    table = VectorTable(store, "shop", fingerprint(THUMBNAIL))
    commit = table.table.latest()
    assert commit is not None
    for file in commit.files:
        flip_bit(store, table.table, file)
    table.drop_damaged()


def _restore_first_version(store: Store) -> None:
    """As a backup does that is older than the other tables."""
    table = VectorTable(store, "shop", fingerprint(THUMBNAIL)).table
    first = table.at(1)
    for version in table.versions()[1:]:
        store.files.delete(f"{_VECTORS}/_commits/{version:012d}.json")
    store.files.write(f"{_VECTORS}/_latest.json", first.to_json())


@pytest.mark.parametrize("lose", [_drop_all, _restore_first_version])
def test_lost_vectors_are_computed_again(lose: Any, store: Store) -> None:
    images = _catalog(store, 4)
    lose(store)
    vectors = VectorTable(store, "shop", fingerprint(THUMBNAIL))
    everything = partial(vectors.read, set(_sha256(store)))
    # Whoever misses a vector names the fix, and the fix works.
    with pytest.raises(StoreError, match="materialize shop/embeddings again"):
        everything()

    reports = embed_shards(store, "shop", THUMBNAIL, [Shard(index, 4) for index in range(4)])

    assert sum(report.embedded for report in reports) > 0
    assert len(everything().sha256) == len(images)
    again = embed_shards(store, "shop", THUMBNAIL, [Shard(index, 4) for index in range(4)])
    assert not any(report.changed or report.embedded for report in again)


def test_vectors_collected_as_garbage_are_computed_when_the_images_return(store: Store) -> None:
    images = _catalog(store, 1)
    (shard,) = [Shard(0, 1)]
    fill_shard(store, "shop", {"i0": images["i0"]}, shard)
    policy = RetentionPolicy(retain_last=1, min_age_hours=1)
    # The embeddings have not run since the other items left.
    collect_garbage(store, policy, now=time.time() + 7200)
    later = Store(store.files)  # a run of its own, which does not remember the images
    fill_shard(later, "shop", images, shard)

    (report,) = embed_shards(later, "shop", THUMBNAIL, [shard])

    assert (report.embedded, report.usable_items) == (3, 4)


def _sha256(store: Store) -> list[str]:
    table = store.table("shop/embeddings")
    commit = table.latest()
    assert commit is not None
    return list(table.read(commit)["sha256"])
