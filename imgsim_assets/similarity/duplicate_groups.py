"""The group stage: the items that show the same, of one catalog or across several.

Images are linked where their similarity reaches the threshold, whichever catalog they are
of; `grouping.py` makes groups of the links.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.encoders.recorded import FINGERPRINT, require_same_encoder
from imgsim_assets.encoders.threshold import resolve_threshold
from imgsim_assets.encoders.vectors import REBUILDS
from imgsim_assets.errors import StoreError
from imgsim_assets.index.stage import drops_of
from imgsim_assets.similarity import items
from imgsim_assets.similarity.clustering import SCHEMA, grouped
from imgsim_assets.similarity.materialized import LISTS, State, updated
from imgsim_assets.similarity.pairs import LEAST, Answer, Items, Question
from imgsim_assets.similarity.settings import ACROSS, AcrossSettings, GroupSettings, LinkSettings
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# The rows of groups across catalogs; there a group_id is catalog/id of its representative.
ACROSS_SCHEMA = {"group_id": pl.String, "catalog": pl.String, **SCHEMA}
BRIDGES = "bridges"
# What links depend on; the other settings only divide them into groups.
_OF_LINKS = ("threshold", FINGERPRINT, REBUILDS)
# Between a catalog's name, which has none, and an id.
_SEPARATOR = "/"


@dataclass(frozen=True)
class GroupReport:
    """What a run did. `grouped` items are in a group of at least two."""

    version: int
    groups: int
    grouped: int
    items: int
    threshold: float
    incremental: bool
    seconds: float
    changed: bool
    data_version: str
    fingerprint: str


@dataclass(frozen=True)
class _Candidates:
    """What is to be grouped: items (id, sha256) in order of rank, and their distinct images."""

    ranked: pl.DataFrame
    images: Items
    index_commits: dict[str, Commit]

    @property
    def first(self) -> Commit:
        """One of the indexes, which are all of the same encoder."""
        return next(iter(self.index_commits.values()))


def groups_table(store: Store, name: str, variant: str | None = None) -> Table:
    """`<name>/duplicate_groups`; see SCHEMA, and BRIDGE_SCHEMA for the files of role BRIDGES.

    A `variant` has a table of its own beside the one that the catalog declares.
    """
    return store.table(f"{name}/duplicate_groups" + (f".{variant}" if variant else ""))


def across_table(store: Store, name: str) -> Table:
    """`duplicate_groups/<name>`; see ACROSS_SCHEMA, and BRIDGE_SCHEMA for those of BRIDGES."""
    return store.table(f"{ACROSS}/{name}")


def update_groups(
    store: Store, name: str, settings: GroupSettings, *, variant: str | None = None
) -> GroupReport:
    """Bring a catalog's groups up to its index, and commit them to its `groups_table`.

    Links are updated at the cost of the change; groups follow from all links. Raises
    StoreError when there is no index, or no report that says what threshold auto is.
    """
    started = time.monotonic()
    table = groups_table(store, name, variant)
    newest = table.latest()
    commit, own = items.from_index(store, name)
    ranks = _ranks(store, name, settings.representative)
    ranked = own.keys.join(ranks, on="id", how="left").sort("rank", "id", nulls_last=True)
    candidates = _Candidates(ranked.select("id", "sha256"), _distinct_images([own]), {name: commit})
    asked = {"representative": settings.representative}
    report = _update(
        store, table, newest, candidates, settings, asked, across=False, started=started
    )
    return report or update_groups(store, name, settings, variant=variant)


def update_across(
    store: Store, name: str, catalogs: Sequence[str], settings: AcrossSettings
) -> GroupReport:
    """Bring the groups of several catalogs up to their indexes, in their `across_table`.

    `catalogs` stand in their order of priority. Raises StoreError when an index is missing,
    when the indexes are of different encoders, or when no report says what threshold auto is.
    """
    started = time.monotonic()
    table = across_table(store, name)
    newest = table.latest()
    opened = {own: items.from_index(store, own) for own in catalogs}
    require_same_encoder([(own, commit) for own, (commit, _) in opened.items()])
    rule = "pixels" if settings.representative == "catalog" else settings.representative
    named = []
    for priority, (own, (_, of_own)) in enumerate(opened.items()):
        ranks = of_own.keys.join(_ranks(store, own, rule), on="id", how="left")
        first = priority if settings.representative == "catalog" else 0
        named.append(
            ranks.select(
                pl.lit(first).alias("first"),
                "rank",
                (pl.lit(own + _SEPARATOR) + pl.col("id")).alias("id"),
                "sha256",
            )
        )
    ranked = pl.concat(named).sort("first", "rank", "id", nulls_last=True)
    candidates = _Candidates(
        ranked.select("id", "sha256"),
        _distinct_images([of_own for _, of_own in opened.values()]),
        {own: commit for own, (commit, _) in opened.items()},
    )
    asked = {"representative": settings.representative, "catalogs": list(catalogs)}
    report = _update(
        store, table, newest, candidates, settings, asked, across=True, started=started
    )
    return report or update_across(store, name, catalogs, settings)


def _update(
    store: Store,
    table: Table,
    newest: Commit | None,
    candidates: _Candidates,
    settings: LinkSettings,
    asked: Mapping[str, object],
    *,
    across: bool,
    started: float,
) -> GroupReport | None:
    """Commit the groups; None if another run has meanwhile committed those of newer indexes."""
    first = candidates.first
    commits = list(candidates.index_commits.items())
    lower_bound = resolve_threshold(store, settings.threshold, commits)
    threshold = LEAST if lower_bound is None else lower_bound
    recipe = {
        **asked,
        "threshold": threshold,
        "close_to_representative": settings.close_to_representative,
        FINGERPRINT: first.properties[FINGERPRINT],
        **items.drops(*map(drops_of, candidates.index_commits.values())),
    }
    state = State.of(table, newest, recipe, _OF_LINKS)
    # In the order of the rule, which is as decisive as the items; only their keys are kept.
    in_order = Items(candidates.ranked, np.empty((0, 0), dtype=np.float32))
    if state.base is not None and state.is_current(in_order, candidates.images):
        commit = state.base
        rows, incremental = state.table.read(commit), True
    else:
        known = _known_links(state)
        incremental = known is not None
        links = Question(threshold, others_only=True)
        lists = updated(known, candidates.images, candidates.images, links)
        rows, bridges = grouped(
            candidates.ranked,
            candidates.images,
            lists,
            close_to_representative=settings.close_to_representative,
        )
        if across:
            rows = _by_catalog(rows)
        files = [
            state.table.write_rows(rows),
            state.table.write_rows(bridges, role=BRIDGES),
            state.table.write_rows(lists, role=LISTS),
        ]
        inputs = {f"{own}/index": index.version for own, index in candidates.index_commits.items()}
        committed = state.commit(files, in_order, candidates.images, inputs)
        if committed is None:
            return None
        commit = committed
    return GroupReport(
        version=commit.version,
        groups=rows["group_id"].n_unique(),
        grouped=rows.height,
        items=candidates.ranked.height,
        threshold=threshold,
        incremental=incremental,
        seconds=time.monotonic() - started,
        changed=state.newest is None or commit.version != state.newest.version,
        data_version=rows_digest(rows.select(_decisive(rows)), str(recipe)),
        fingerprint=first.properties[FINGERPRINT],
    )


def _decisive(rows: pl.DataFrame) -> list[str]:
    """The columns that say who is in which group."""
    return [name for name in ("group_id", "catalog", "id", "sha256") if name in rows.columns]


def _distinct_images(sides: Sequence[Items]) -> Items:
    """One item for each distinct image, its sha256 for an id."""
    own = [side.keys.select("sha256").with_row_index("row") for side in sides]
    numbered = (
        pl.concat(keys.with_columns(pl.lit(side).alias("side")) for side, keys in enumerate(own))
        .unique("sha256", keep="first", maintain_order=True)
        .with_row_index("place")
    )
    vectors = np.concatenate(
        [
            side.vectors[numbered.filter(pl.col("side") == number)["row"].to_numpy()]
            for number, side in enumerate(sides)
            if len(side)
        ]
        or [sides[0].vectors]
    )
    ordered = numbered.sort("sha256")
    keys = ordered.select(pl.col("sha256").alias("id"), "sha256")
    return Items(keys, vectors[ordered["place"].to_numpy()])


def _known_links(state: State) -> Answer | None:
    """The links, both ways round, and the images they are of; None when there are none to use."""
    known = state.answer(LISTS)
    # Beside the links lie all items on the left, and the images they are of on the right.
    return None if known is None else Answer(known.lists, known.right, known.right)


def _ranks(store: Store, name: str, rule: str) -> pl.DataFrame:
    """What a rule goes by, for each item (id, rank); the least represents its group."""
    table = ledger_table(store, name)
    commit = table.latest()
    if commit is None:
        raise StoreError(f"{name}/images has no version, which tells images apart; materialize it")
    order = {
        "pixels": -(pl.col("width").cast(pl.Int64) * pl.col("height")),
        "bytes": -pl.col("bytes").cast(pl.Int64),
        "oldest": pl.col("fetched_at"),
    }[rule]
    return table.read(commit).select("id", order.alias("rank"))


def _by_catalog(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows whose ids are catalog/id, with both in columns of their own."""
    parts = pl.col("id").str.splitn(_SEPARATOR, 2)
    split = rows.with_columns(
        parts.struct.field("field_0").alias("catalog"), parts.struct.field("field_1").alias("id")
    )
    return split.select(list(ACROSS_SCHEMA))
