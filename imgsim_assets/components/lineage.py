"""Which columns a table's columns come from, as Dagster shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

# A column, and the upstream columns it is made of as (asset key, column).
Origins = Mapping[str, Sequence[tuple[dg.AssetKey, str]]]


def column_lineage(origins: Origins) -> dict[str, Any]:
    """The metadata entry that says where columns come from."""
    deps = {
        column: [dg.TableColumnDep(asset_key=key, column_name=name) for key, name in sources]
        for column, sources in origins.items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)}


def carried(key: dg.AssetKey, columns: Sequence[str]) -> Origins:
    """Columns that are those of one upstream table under the same names."""
    return {column: [(key, column)] for column in columns}


def of_matches(left: dg.AssetKey, right: dg.AssetKey) -> Origins:
    """The columns of a match table, made from the items of two catalogs."""
    images = [(left, "sha256"), (right, "sha256")]
    return {
        "left_id": [(left, "id")],
        "right_id": [(right, "id")],
        "left_sha256": [(left, "sha256")],
        "right_sha256": [(right, "sha256")],
        "similarity": images,
        "rank": images,
    }


def of_graph(index: dg.AssetKey) -> Origins:
    """The columns of a similarity graph, made from the items of an index."""
    images = [(index, "sha256")]
    return {
        "src_id": [(index, "id")],
        "dst_id": [(index, "id")],
        "similarity": images,
        "distance": images,
        "rank": images,
    }
