from __future__ import annotations

import pytest

from imgsim_assets.service.page_paths import page_path


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ("matches/products__suppliers", "/review/products__suppliers"),
        ("products/items", "/explore/products"),
        ("products/similarity_graph", "/explore/products"),
        (
            "products/duplicate_groups",
            "/explore/products/groups?table=products%2Fduplicate_groups",
        ),
        ("duplicate_groups/both", "/explore/suppliers/groups?table=duplicate_groups%2Fboth"),
        ("reviews", None),
    ],
)
def test_every_table_of_a_result_has_a_page(table: str, path: str | None) -> None:
    assert page_path(table, ["suppliers", "products"] if table.endswith("both") else []) == path
