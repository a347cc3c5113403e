"""People's decisions about pairs, as the review page and other programs record them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeGuard, get_args

import polars as pl

from imgsim_assets.download.status import OK
from imgsim_assets.encoders.table import embeddings_table, latest_embeddings
from imgsim_assets.errors import DecisionError, StoreError
from imgsim_assets.pipeline.reviewed import Reviewed, Side, find_reviewed
from imgsim_assets.pipeline.shards import shards_of
from imgsim_assets.reviews.table import CLEARED, SCHEMA, VERDICTS, add_made_now, unordered
from imgsim_assets.storage.shards import Shard, shard_index
from imgsim_assets.storage.store import Store

_REQUIRED = ("left_id", "right_id", "left_sha256", "right_sha256", "verdict")
_FIELDS = (*_REQUIRED, "note")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_NOTE = 2000
_MAX_REVIEWER = 200
_SHOWN = 12


class RecordReport(NamedTuple):
    """What was recorded.

    Attributes:
        added: decisions that were new; one that repeats what stands is not added again.
        version: of the decisions afterwards, 0 while there are none.
    """

    added: int
    version: int


def record_decisions(
    store: Store,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    reviewer: str,
    now: datetime,
) -> RecordReport:
    """Add the decisions that a person makes now; the next run of the result honours them.

    Several processes may record at once. A decision is taken back by one with verdict `cleared`.

    Args:
        store: the store of the result.
        name: a match table, such as "products__suppliers", or groups, such as "groups/photos".
        rows: decisions with left_id, right_id, left_sha256, right_sha256, verdict (match,
            different, unsure or cleared) and, optionally, note. In groups across catalogs an id
            is catalog/id.
        reviewer: who decides.
        now: the time, with a time zone.

    Raises:
        DecisionError: when a row is not a decision about images that the items have. Nothing is
            recorded then.
        StoreError: when the store has no such result.
    """
    reviewed = find_reviewed(store, name)
    if now.tzinfo is None:
        raise DecisionError("now has no time zone; use datetime.now(UTC)")
    reviewer = _text("reviewer", reviewer, _MAX_REVIEWER)
    if not reviewer:
        raise DecisionError("reviewer is empty; name the person who decides")
    checked = [_checked(number, row) | {"reviewer": reviewer} for number, row in enumerate(rows, 1)]
    _require_images(store, reviewed, checked)
    schema = {name: kind for name, kind in SCHEMA.items() if name != "decided_at"}
    frame = pl.DataFrame([row | {"source": None} for row in checked], schema=schema)
    ordered = frame if reviewed.is_ordered else unordered(frame)
    commit, added = add_made_now(reviewed.decisions(store), ordered, now)
    return RecordReport(added, commit.version if commit is not None else 0)


def _checked(number: int, row: Mapping[str, Any]) -> dict[str, str | None]:
    """A decision with its fields as text."""
    unknown = ", ".join(sorted(row.keys() - set(_FIELDS)))
    if unknown:
        raise DecisionError(
            f"row {number}: there is no field {unknown!r}; use {', '.join(_FIELDS)}"
        )
    missing = [field for field in _REQUIRED if not row.get(field)]
    if missing:
        raise DecisionError(f"row {number}: {', '.join(missing)} is missing")
    values = {field: _value(number, field, row[field]) for field in _REQUIRED}
    for field in ("left_sha256", "right_sha256"):
        if not _SHA256.fullmatch(values[field]):
            raise DecisionError(f"row {number}: {field} is not a sha256 of 64 hex digits")
    if values["verdict"] not in VERDICTS:
        raise DecisionError(
            f"row {number}: verdict {values['verdict']!r} is not one of {', '.join(VERDICTS)}"
        )
    note = row.get("note")
    return values | {"note": _text(f"row {number}: note", note, _MAX_NOTE) or None}


def _value(number: int, field: str, value: Any) -> str:
    if not _is_text(value):
        raise DecisionError(f"row {number}: {field} is not text")
    return value


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that a table can hold; half of a surrogate pair is none."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(what: str, value: Any, most: int) -> str:
    """Text of a person without blanks around it."""
    if value is None:
        return ""
    if not _is_text(value):
        raise DecisionError(f"{what} is not text")
    if len(value) > most:
        raise DecisionError(f"{what} has {len(value)} characters; use at most {most}")
    return value.strip()


def _require_images(
    store: Store, reviewed: Reviewed, rows: Sequence[Mapping[str, str | None]]
) -> None:
    """Raise DecisionError for a row about an item or an image that is not there.

    What was decided can be taken back also when the image has changed.
    """
    images = _Images(store)
    for number, row in enumerate(rows, 1):
        if row["left_id"] == row["right_id"] and not reviewed.is_ordered:
            raise DecisionError(f"row {number}: {row['left_id']!r} is paired with itself")
        if row["verdict"] == CLEARED:
            continue
        for side in get_args(Side):
            try:
                catalog, item = reviewed.item(side, str(row[f"{side}_id"]))
            except StoreError as error:
                raise DecisionError(f"row {number}: {error}") from None
            sha256 = row[f"{side}_sha256"]
            known = images.of(catalog, item)
            if not known:
                raise DecisionError(f"row {number}: {catalog} has no item {item!r} with an image")
            if sha256 not in known:
                raise DecisionError(
                    f"row {number}: {item!r} of {catalog} no longer has the image "
                    f"{str(sha256)[:_SHOWN]}...; look at the pair again"
                )


class _Images:
    """The images of single items, of which only their shards are read, once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shards: dict[tuple[str, int], pl.DataFrame] = {}
        self._counts: dict[str, int] = {}

    def of(self, catalog: str, item: str) -> set[str]:
        """The sha256 of an item's images that have a vector."""
        commit = latest_embeddings(self._store, catalog)
        count = len(shards_of(commit))
        shard = Shard(shard_index(item, count), count)
        key = catalog, shard.index
        if key not in self._shards:
            rows = embeddings_table(self._store, catalog).read(
                commit, shard=shard, columns=["id", "sha256", "status"]
            )
            self._shards[key] = rows.filter(pl.col("status") == OK) if rows.width else rows
        rows = self._shards[key]
        return set(rows.filter(pl.col("id") == item)["sha256"]) if rows.width else set()
