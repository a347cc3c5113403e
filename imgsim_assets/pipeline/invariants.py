"""The invariants of a catalog's tables, and the refusal to compute from tables that break them.

Dagster evaluates them as blocking asset checks. The shell and notebooks, where nothing stands
between two stages, ask `require_invariants`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from imgsim_assets.catalog.stage import items_table
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.table import embeddings_table, latest_embeddings
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import InvariantError
from imgsim_assets.index.stage import IndexReport, IndexStage, open_index
from imgsim_assets.pipeline import checks
from imgsim_assets.pipeline.check_names import (
    IDS_MATCH_EMBEDDINGS,
    IDS_UNIQUE,
    SELF_RECALL,
    VECTORS_NORMALIZED,
)
from imgsim_assets.pipeline.check_result import CheckResult
from imgsim_assets.pipeline.settings import CheckSettings
from imgsim_assets.pipeline.shards import shards_of
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store

if TYPE_CHECKING:
    from imgsim_assets.index.flat import FlatIndex

# Results by the name of the check.
Results = Mapping[str, CheckResult]
_DEFAULTS = CheckSettings()


def items_invariants(store: Store, name: str) -> Results:
    """Those of `<name>/items`: no id occurs twice."""
    return {IDS_UNIQUE: checks.ids_unique_in_table(items_table(store, name))}


def embeddings_invariants(store: Store, name: str, shards: Sequence[Shard]) -> Results:
    """Those of some shards of `<name>/embeddings`: every vector is there and has length 1.

    Files with a bad vector are dropped, so that the next run computes their vectors again.
    """
    result = checks.vectors_normalized(store, name, shards)
    if result.metadata["bad"]:
        fingerprint = latest_embeddings(store, name).properties[FINGERPRINT]
        VectorTable(store, name, fingerprint).drop_bad()
    return {VECTORS_NORMALIZED: result}


def index_invariants(
    store: Store, name: str, index: FlatIndex, settings: CheckSettings = _DEFAULTS
) -> Results:
    """Those of `<name>/index`: it holds the embedded images, and each finds itself."""
    return {
        IDS_MATCH_EMBEDDINGS: checks.ids_match_embeddings(store, name),
        SELF_RECALL: checks.self_recall(index, settings.sample_size),
    }


def require_invariants(store: Store, name: str) -> None:
    """Check the items and embeddings of a catalog, before something is computed from them.

    Args:
        store: the store of the catalog.
        name: the catalog.

    Raises:
        InvariantError: when an invariant is broken; the message names table, check and fix.
    """
    _require(f"{name}/items", items_invariants(store, name))
    embeddings = embeddings_table(store, name).latest()
    if embeddings is not None:
        results = embeddings_invariants(store, name, shards_of(embeddings))
        _require(f"{name}/embeddings", results)


def update_index(store: Store, name: str) -> IndexReport:
    """Update `<name>/index` between the invariants of what it is made of and its own.

    Raises:
        InvariantError: as `require_invariants` does.
        StoreError: as `IndexStage.run` does.
    """
    require_invariants(store, name)
    report = IndexStage(store, name).run()
    _, index = open_index(store, name)
    _require(f"{name}/index", index_invariants(store, name, index))
    return report


def _require(table: str, results: Results) -> None:
    for check, result in results.items():
        if not result.passed:
            raise InvariantError(f"{table}: the check {check} failed: {result.problem}")
