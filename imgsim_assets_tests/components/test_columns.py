"""The declared columns are those that the stages write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest

from imgsim_assets.components import columns
from imgsim_assets.components.metadata import schema_of
from imgsim_assets.download.ledger.table import SCHEMA
from imgsim_assets.encoders import table
from imgsim_assets.evaluation import operating_points
from imgsim_assets.similarity import graph, group_rows, group_tables, match_rows
from imgsim_assets.similarity.evidence import accepted_pairs
from imgsim_assets.similarity.items import ORIENTATION


@pytest.mark.parametrize(
    ("declared", "written"),
    [
        pytest.param(columns.IMAGES, SCHEMA, id="images"),
        pytest.param(columns.EMBEDDINGS, table.SCHEMA, id="embeddings"),
        pytest.param(columns.GRAPH, graph.SCHEMA, id="similarity_graph"),
        pytest.param(columns.MATCHES, match_rows.SCHEMA, id="matches"),
        pytest.param(columns.EVIDENCE, accepted_pairs.COLUMNS, id="evidence"),
        pytest.param(columns.ORIENTATION, {ORIENTATION: pl.String}, id="orientation"),
        pytest.param(columns.GROUPS, group_rows.SCHEMA, id="duplicate_groups"),
        pytest.param(
            columns.CROSS_CATALOG_GROUPS_COLUMNS,
            group_tables.CROSS_CATALOG_SCHEMA,
            id="duplicate_groups across",
        ),
        pytest.param(columns.ENCODER_EVALUATION, operating_points.SCHEMA, id="encoder_evaluation"),
    ],
)
def test_declared_columns_are_those_written(
    declared: Mapping[str, str], written: Mapping[str, Any]
) -> None:
    found = schema_of(written).columns

    assert {column.name: column.type for column in found} == declared
    assert list(declared) == [column.name for column in found]
    assert all(column.description != columns.CARRIED for column in found)
