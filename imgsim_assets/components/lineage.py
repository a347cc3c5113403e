"""Column lineage, as Dagster shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

# A column, and the upstream columns it depends on, as (asset key, column).
Origins = Mapping[str, Sequence[tuple[dg.AssetKey, str]]]


def column_lineage(origins: Origins) -> dict[str, Any]:
    """The metadata entry for the lineage of columns."""
    deps = {
        column: [dg.TableColumnDep(asset_key=key, column_name=name) for key, name in sources]
        for column, sources in origins.items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)}


def passthrough_columns(key: dg.AssetKey, columns: Sequence[str]) -> Origins:
    """Columns that are copied from one upstream table under the same names."""
    return {column: [(key, column)] for column in columns}


def match_lineage(left: dg.AssetKey, right: dg.AssetKey) -> Origins:
    """The lineage of a match table's columns."""
    images = [(left, "sha256"), (right, "sha256")]
    return {
        "left_id": [(left, "id")],
        "right_id": [(right, "id")],
        "left_image": [(left, "image")],
        "right_image": [(right, "image")],
        "left_sha256": [(left, "sha256")],
        "right_sha256": [(right, "sha256")],
        "similarity": images,
        "rank": images,
        "orientation": images,
    }


def graph_lineage(index: dg.AssetKey) -> Origins:
    """The lineage of a similarity graph's columns."""
    images = [(index, "sha256")]
    return {
        "src_id": [(index, "id")],
        "dst_id": [(index, "id")],
        "src_image": [(index, "image")],
        "dst_image": [(index, "image")],
        "src_sha256": images,
        "dst_sha256": images,
        "similarity": images,
        "distance": images,
        "rank": images,
        "orientation": images,
    }
