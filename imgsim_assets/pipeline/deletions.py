"""Which files of duplicate groups are redundant: a list of paths; nothing is ever deleted."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from imgsim_assets.download.ledger.table import ledger_table, with_all_columns
from imgsim_assets.download.status import OK
from imgsim_assets.storage.gc import LOCATION
from imgsim_assets.storage.references import Reference
from imgsim_assets.storage.store import Store

_KEY = ["catalog", "id"]
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class RedundantFiles:
    """The files that may be deleted, sorted, and how many others were left out, by the reason."""

    paths: list[str]
    left_out: Mapping[str, int]


def redundant_files(
    store: Store, members: pl.DataFrame, catalogs: Collection[str], suspicious: Collection[str] = ()
) -> RedundantFiles:
    """The files of group members that are not to be kept.

    A file is left out when an item that is kept, or is in no group, uses it as well; when it has
    changed since it was read; when all kept files of its group have; or when its name holds a
    control character, which a list of lines cannot carry.

    Args:
        store: the store of the catalogs.
        members: catalog, id, group_id and keep of each member.
        catalogs: all catalogs of the groups.
        suspicious: groups of which nothing is listed.
    """
    files = pl.concat(_files(store, name) for name in catalogs)
    files = files.with_columns(pl.len().over(_KEY).alias("images")).join(
        members.select(*_KEY, "group_id", "keep"), on=_KEY, how="left", maintain_order="left"
    )
    redundant = files.filter(~pl.col("keep").fill_null(value=True))
    kept = files.filter(pl.col("keep").fill_null(value=True))
    in_use = {_real(path) for path in kept[LOCATION].drop_nulls()}
    in_use |= {os.path.realpath(path) for path in kept[LOCATION].drop_nulls()}
    kept_in_groups = kept.filter(pl.col("group_id").is_in(redundant["group_id"].implode()))
    # An image that the store copies, or that lies on a server, is not at risk.
    intact = {
        row["group_id"]
        for row in kept_in_groups.iter_rows(named=True)
        if row[LOCATION] is None or _is_current(row)
    }
    paths, left_out = set(), Counter[str]()
    for row in redundant.iter_rows(named=True):
        path = row[LOCATION]
        if path is None:
            left_out["not a file here"] += 1
        elif row["images"] > 1:
            left_out["one of several images of its item"] += 1
        elif row["group_id"] in suspicious:
            left_out["in a suspicious group"] += 1
        elif row["group_id"] not in intact:
            left_out["the file to keep is gone or has changed"] += 1
        elif _real(path) in in_use:
            left_out["an item that is kept uses the same file"] += 1
        elif not _is_current(row):
            left_out["gone or changed since it was read"] += 1
        elif _CONTROL.search(path):
            left_out["a control character in the name"] += 1
        else:
            paths.add(path)
    return RedundantFiles(sorted(paths), dict(sorted(left_out.items())))


def _files(store: Store, name: str) -> pl.DataFrame:
    """The images of a catalog: catalog, id, location and etag."""
    table = ledger_table(store, name)
    commit = table.latest()
    rows = with_all_columns(table.read(commit) if commit is not None else pl.DataFrame())
    catalog = pl.lit(name).alias("catalog")
    return rows.filter(pl.col("status") == OK).select(catalog, "id", LOCATION, "etag")


def _real(path: str) -> str:
    """The path with links of its folders followed, but not of the file itself."""
    if "://" in path:
        return path
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _is_current(row: Mapping[str, Any]) -> bool:
    return Reference(row[LOCATION], 0, row["etag"]).is_current()
