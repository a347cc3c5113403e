"""The table `<name>/embeddings`: a row for each fetched image, and whether it has a vector."""

from __future__ import annotations

from collections.abc import Mapping, Set

import polars as pl

from imgsim_assets.catalog.image_key import IMAGE
from imgsim_assets.download.status import OK
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

SCHEMA = {
    "id": pl.String,
    IMAGE: pl.Int32,
    "sha256": pl.String,
    "status": pl.String,
    "detail": pl.String,
    "truncated": pl.Boolean,
}
# Status of an image whose bytes are missing. They are fetched again, so that it is not final.
LOST_IMAGE = "lost_image"


def embeddings_table(store: Store, name: str) -> Table:
    """`<name>/embeddings`: a row for each fetched image of an item; see SCHEMA."""
    return store.table(f"{name}/embeddings", key=("id", IMAGE))


def latest_embeddings(store: Store, name: str) -> Commit:
    """The newest commit of a catalog's embeddings.

    Raises:
        StoreError: when there is none.
    """
    commit = embeddings_table(store, name).latest()
    if commit is None:
        raise StoreError(f"{name}/embeddings has no version yet; materialize it first")
    return commit


def status_rows(
    images: pl.DataFrame, failures: Mapping[str, tuple[str, str]], truncated: Set[str]
) -> pl.DataFrame:
    """The shard's images with their status: ok, or why there is no vector; sorted."""
    reasons = pl.DataFrame(
        [(sha256, status, detail) for sha256, (status, detail) in failures.items()],
        schema={"sha256": pl.String, "status": pl.String, "detail": pl.String},
        orient="row",
    )
    return (
        images.join(reasons, on="sha256", how="left")
        .with_columns(
            pl.col("status").fill_null(OK),
            pl.col("sha256").is_in(sorted(truncated)).alias("truncated"),
        )
        .select(list(SCHEMA))
        .sort("id", IMAGE)
    )
