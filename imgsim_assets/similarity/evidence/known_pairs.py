"""Evidence that results of a store hold already, so that no pair is compared twice."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.similarity.evidence.pair import evidence_fingerprint
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# The file of the evidence for all candidates.
EVIDENCE = "evidence"
# Properties of a result: which candidates count, null without evidence; and what compared them.
EVIDENCE_RULE = "evidence_rule"
EVIDENCE_FINGERPRINT = "fingerprint"
_ENDS = ["left_sha256", "right_sha256"]


def known_evidence(store: Store, table: Table, latest: Commit | None) -> pl.DataFrame | None:
    """The evidence that earlier runs have computed, by the present fingerprint.

    Args:
        store: holds the results.
        table: the result that is updated.
        latest: its latest commit.

    Returns:
        The pairs of the latest commit; for a table that has none yet, those of the results of the
        same catalog or match table, so that a variant compares nothing again. None without any.
    """
    own = _evidence_of(table, latest)
    if own is not None:
        return own
    found = list(_of_related(store, table.name))
    return pl.concat(found).unique(_ENDS, keep="first") if found else None


def _of_related(store: Store, name: str) -> Iterator[pl.DataFrame]:
    """The evidence of the tables of one catalog, or of the variants of another table."""
    first, _, last = name.partition("/")
    variants = f"{first}/{last.partition('.')[0]}"
    is_catalog = store.table(f"{first}/index").latest() is not None
    for other in store.table_names():
        is_variant = other == variants or other.startswith(f"{variants}.")
        if is_variant or (is_catalog and other.startswith(f"{first}/")):
            table = store.table(other)
            evidence = _evidence_of(table, table.latest())
            if evidence is not None:
                yield evidence


def _evidence_of(table: Table, commit: Commit | None) -> pl.DataFrame | None:
    """The evidence of a commit, if the present comparison gave it and its file is intact."""
    rule = commit.properties.get(EVIDENCE_RULE) if commit is not None else None
    if commit is None or rule is None or rule[EVIDENCE_FINGERPRINT] != evidence_fingerprint():
        return None
    file = commit.file_with_role(EVIDENCE)
    try:
        return table.read_file(file) if file is not None else None
    except CorruptFileError:
        return None
