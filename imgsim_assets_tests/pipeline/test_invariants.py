"""The refusal of doors without Dagster to compute from tables that break an invariant."""

from __future__ import annotations

import pytest

from imgsim_assets.encoders.table import latest_embeddings
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import InvariantError
from imgsim_assets.pipeline import checks
from imgsim_assets.pipeline.check_result import CheckResult
from imgsim_assets.pipeline.invariants import (
    embeddings_invariants,
    update_index,
)
from imgsim_assets.pipeline.shards import shards_of
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.damage import break_a_vector, vectors_of
from imgsim_assets_tests.support.model_datasets import create_model


def _fill(store: Store) -> None:
    indexed(store, "shop", {f"i{seed}": tiny(seed) for seed in range(6)})


def test_share_of_a_run_is_checked_without_reading_vectors(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(store)
    monkeypatch.setattr(VectorTable, "parts", lambda _: pytest.fail("vectors are read"))

    result = checks.vectors_normalized(store, "shop", shards_of(latest_embeddings(store, "shop")))

    assert (result.passed, dict(result.metadata)) == (
        True,
        {"vectors": 6, "bad": 0, "missing": 0},
    )


def test_vector_that_was_replaced_by_a_good_one_is_not_bad(store: Store) -> None:
    _fill(store)
    vectors = vectors_of(store, "shop")
    good = vectors.read(sorted(vectors.keys())[:1])
    break_a_vector(store, "shop")
    shards = shards_of(latest_embeddings(store, "shop"))
    assert checks.vectors_normalized(store, "shop", shards).metadata["bad"] == 1

    embeddings_invariants(store, "shop", shards)
    assert checks.vectors_normalized(store, "shop", shards).passed
    assert vectors.read(good.sha256).vectors.tobytes() == good.vectors.tobytes()


@pytest.mark.parametrize("check", ["ids_match_embeddings", "self_recall"])
def test_index_that_breaks_an_invariant_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    _fill(store)
    monkeypatch.setattr(checks, check, lambda *_: CheckResult({}, "fix it"))

    with pytest.raises(InvariantError, match=f"shop/index: the check {check} failed: fix it"):
        update_index(store, "shop")


def test_notebook_refuses_vectors_that_are_not_normalized(store: Store) -> None:
    _fill(store)
    break_a_vector(store, "shop")

    with pytest.raises(InvariantError, match="shop/embeddings: the check vectors_normalized"):
        create_model("shop", store=store)

    # The file of the bad vector was dropped; an earlier one has a good vector of the same image.
    assert len(create_model("shop", store=store).labels) == 6
