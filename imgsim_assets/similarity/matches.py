"""The match stage: the table `matches/<name>` of similar items of two catalogs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT, require_same_encoder
from imgsim_assets.encoders.threshold import resolve_threshold
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index.stage import drops_of
from imgsim_assets.similarity import items
from imgsim_assets.similarity.assignment import one_to_one
from imgsim_assets.similarity.materialized import LISTS, State, updated
from imgsim_assets.similarity.pairs import LEAST, Answer, Items, Question, best, with_rank
from imgsim_assets.similarity.settings import MatchSettings
from imgsim_assets.storage.commit import ROWS, DataFile
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

SCHEMA = {
    "left_id": pl.String,
    "right_id": pl.String,
    "similarity": pl.Float64,
    "rank": pl.Int32,
    "left_sha256": pl.String,
    "right_sha256": pl.String,
}
_LISTS_OF_LEFT = "lists_of_left"
_LISTS_OF_RIGHT = "lists_of_right"


@dataclass(frozen=True)
class MatchReport:
    """What a run did. `incremental` means that an earlier result was updated."""

    version: int
    matches: int
    left_items: int
    right_items: int
    left_matched: int
    threshold: float
    incremental: bool
    seconds: float
    changed: bool
    data_version: str
    fingerprint: str


def match_table(store: Store, name: str) -> Table:
    """`matches/<name>`; see SCHEMA."""
    return store.table(f"matches/{name}")


def update_matches(
    store: Store, name: str, left: str, right: str, settings: MatchSettings
) -> MatchReport:
    """Match a left catalog's embeddings against a right one's index, and commit the table.

    Raises StoreError when an input is missing, or when the two were made by different
    encoders.
    """
    started = time.monotonic()
    table = match_table(store, name)
    newest = table.latest()
    left_commit, left_items = items.from_embeddings(store, left)
    right_commit, right_items = items.from_index(store, right)
    made = [(left, left_commit), (right, right_commit)]
    require_same_encoder(made)
    lower_bound = resolve_threshold(store, settings.threshold, made)
    threshold = LEAST if lower_bound is None else lower_bound
    fingerprint = left_commit.properties[FINGERPRINT]
    recipe = {
        "left": left,
        "right": right,
        "mode": settings.mode,
        "k": settings.k,
        "threshold": threshold,
        FINGERPRINT: fingerprint,
        **items.drops(VectorTable(store, left, fingerprint).rebuild_count, drops_of(right_commit)),
    }
    state = State.of(table, newest, recipe)
    if state.base is not None and state.is_current(left_items, right_items):
        commit = state.base
        rows, incremental = state.table.read(commit), True
    else:
        rows, kept, incremental = _matches(state, left_items, right_items, settings, threshold)
        committed = state.commit(
            [state.table.write_rows(rows), *kept],
            left_items,
            right_items,
            {f"{left}/embeddings": left_commit.version, f"{right}/index": right_commit.version},
        )
        if committed is None:
            return update_matches(store, name, left, right, settings)
        commit = committed
    return MatchReport(
        version=commit.version,
        matches=rows.height,
        left_items=len(left_items),
        right_items=len(right_items),
        left_matched=rows["left_id"].n_unique(),
        threshold=threshold,
        incremental=incremental,
        seconds=time.monotonic() - started,
        changed=state.newest is None or commit.version != state.newest.version,
        data_version=rows_digest(
            rows.select("left_id", "right_id", "left_sha256", "right_sha256"), str(recipe)
        ),
        fingerprint=fingerprint,
    )


def _matches(
    state: State, left: Items, right: Items, settings: MatchSettings, threshold: float
) -> tuple[pl.DataFrame, list[DataFile], bool]:
    """The match rows, files that the next run needs beside them, and if earlier ones were used."""
    kept: list[DataFile] = []
    if settings.mode == "mutual":
        pairs, kept, incremental = _mutual(state, left, right, threshold)
    else:
        k = {"all": None, "best": 1, "top_k": settings.k, "one_to_one": None}[settings.mode]
        question = Question(threshold, k)
        # All pairs are their own lists.
        role = ROWS if settings.mode == "all" else LISTS
        known = state.answer(role)
        incremental = known is not None
        lists = updated(known, left, right, question)
        pairs = best(lists, question)
        if role == LISTS:
            kept = [state.table.write_rows(lists, role=LISTS)]
        if settings.mode == "one_to_one":
            pairs = one_to_one(pairs)
    rows = with_rank(pairs)
    for side, sides_items in (("left", left), ("right", right)):
        images = sides_items.keys.select(
            pl.col("id").alias(f"{side}_id"), pl.col("sha256").alias(f"{side}_sha256")
        )
        rows = rows.join(images, on=f"{side}_id", how="left", maintain_order="left")
    return rows.select(list(SCHEMA)), kept, incremental


def _mutual(
    state: State, left: Items, right: Items, threshold: float
) -> tuple[pl.DataFrame, list[DataFile], bool]:
    """Pairs whose members are each other's best, from the best of each side."""
    question = Question(threshold, k=1)
    known_of_left = state.answer(_LISTS_OF_LEFT)
    lists_of_left = updated(known_of_left, left, right, question)
    # The lists of the right items are pairs that run the other way.
    known = state.answer(_LISTS_OF_RIGHT)
    turned = Answer(known.lists, known.right, known.left) if known is not None else None
    lists_of_right = updated(turned, right, left, question)
    of_left, of_right = best(lists_of_left, question), best(lists_of_right, question)
    pairs = of_left.join(
        of_right, left_on=["left_id", "right_id"], right_on=["right_id", "left_id"], how="semi"
    )
    kept = [
        state.table.write_rows(lists_of_left, role=_LISTS_OF_LEFT),
        state.table.write_rows(lists_of_right, role=_LISTS_OF_RIGHT),
    ]
    return pairs, kept, known_of_left is not None and known is not None
