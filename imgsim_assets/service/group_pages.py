"""Pages of duplicate groups: members with the copy to keep, weak links, and what was decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from imgsim_assets.pipeline.group_members import group_members
from imgsim_assets.pipeline.reviewed import name_of_decisions
from imgsim_assets.reviews.table import latest_decisions, read_reviews
from imgsim_assets.service.catalog_rows import read_catalog
from imgsim_assets.similarity.group_rows import BRIDGE_SCHEMA
from imgsim_assets.similarity.group_tables import BRIDGES, SEPARATOR

if TYPE_CHECKING:
    from imgsim_assets.service.view import View

# What the groups of a page are ordered by; the group id decides among equals.
BY_ID, BY_SIZE, BY_SIMILARITY, BY_BRIDGES = "id", "size", "similarity", "bridges"
ORDERS: Mapping[str, str] = {
    BY_ID: "id",
    BY_SIZE: "largest",
    BY_SIMILARITY: "least similar",
    BY_BRIDGES: "most weak links",
}
_SORT = {
    BY_ID: ([], []),
    BY_SIZE: (["size"], [True]),
    BY_SIMILARITY: (["min_similarity"], [False]),
    BY_BRIDGES: (["bridges"], [True]),
}
# Members and weak links of one group that a page shows.
_MAX_MEMBERS = 60
_MAX_BRIDGES = 12


class Link(NamedTuple):
    """A pair of a group: its ends as decisions name them, and what was decided.

    `verdict` is None without a decision; `is_reopened` tells that an image has changed since.
    """

    left_id: str
    right_id: str
    left_sha256: str
    right_sha256: str
    similarity: float
    verdict: str | None
    is_reopened: bool


class Group(NamedTuple):
    """A group: facts, members as rows of `group_members`, and pairs to judge.

    Attributes:
        group_id: the id of the canonical item.
        size: how many items it has.
        min_similarity: of all its pairs.
        mean_similarity: of all its pairs.
        members: the first of its items, the canonical one first, with the sha256 of their
            `other_images`, each with its pair with the canonical one, which is None for the
            canonical one itself.
        bridges: its weakest links, the least similar first.
    """

    group_id: str
    size: int
    min_similarity: float
    mean_similarity: float
    members: list[tuple[dict[str, Any], Link | None]]
    bridges: list[Link]


class GroupPage(NamedTuple):
    """Some groups of a table, and where the page is among all `total` ones."""

    groups: list[Group]
    total: int
    start: int
    next_start: int | None
    previous_start: int | None


def decisions_name(table: str) -> str:
    """The name of the decisions about the pairs of a table of groups, below "reviews/"."""
    name = name_of_decisions(table)
    if name is None:
        raise AssertionError(f"{table} is no table of groups")
    return name


def group_tables(view: View, name: str) -> list[str]:
    """The tables of groups that compare a catalog, its own ones first."""
    tables = [
        table
        for table in view.group_tables
        if name in view.commit(table).properties.get("catalogs", [])
    ]
    return sorted(tables, key=lambda table: (not table.startswith(f"{name}{SEPARATOR}"), table))


def read_groups(
    view: View,
    table: str,
    *,
    order: str = BY_ID,
    start: int = 0,
    limit: int = 20,
    group: str | None = None,
) -> GroupPage:
    """A page of groups.

    Args:
        view: what to read from.
        table: such as "products/duplicate_groups".
        order: one of ORDERS.
        start: how many groups are before the page.
        limit: groups of the page.
        group: the id of an only group.

    Raises:
        NotFoundError: there is no such table.
    """
    members = _members(view, table)
    firsts = members.filter("is_canonical")
    if group is not None:
        firsts = firsts.filter(pl.col("group_id") == group)
    by, descending = _SORT[order if order in _SORT else BY_ID]
    ordered = firsts.sort([*by, "group_id"], descending=[*descending, False])
    shown = ordered.slice(start, limit)
    groups = _Groups(view, table, members)
    end = start + shown.height
    return GroupPage(
        [groups.group(row) for row in shown.iter_rows(named=True)],
        ordered.height,
        start,
        end if end < ordered.height else None,
        max(start - limit, 0) if start else None,
    )


def group_of(view: View, table: str, catalog: str, item_id: str) -> str | None:
    """The id of the group that an item is in; None for an item without duplicates."""
    rows = view.frame(table)
    is_member = pl.col("id") == item_id
    if "catalog" in rows.columns:
        is_member &= pl.col("catalog") == catalog
    found = rows.filter(is_member)["group_id"]
    return str(found[0]) if len(found) else None


class _Groups:
    """The groups of one table with their weak links and decisions."""

    def __init__(self, view: View, table: str, members: pl.DataFrame) -> None:
        self._view, self._members = view, members
        commit = view.commit(table)
        self._names_catalogs = len(commit.properties["catalogs"]) > 1
        file = commit.file_with_role(BRIDGES)
        self._bridges = (
            view.store.table(table).read_file(file)
            if file is not None
            else pl.DataFrame(schema=BRIDGE_SCHEMA)
        )
        self._verdicts = _verdicts(view, table)

    def group(self, first: Mapping[str, Any]) -> Group:
        """The group of a canonical item."""
        group_id = first["group_id"]
        rows = self._members.filter(pl.col("group_id") == group_id).head(_MAX_MEMBERS)
        bridges = self._bridges.filter(pl.col("group_id") == group_id).sort("similarity")
        return Group(
            group_id,
            first["size"],
            first["min_similarity"],
            first["mean_similarity"],
            list(self._with_links(rows)),
            [self._link(row) for row in bridges.head(_MAX_BRIDGES).iter_rows(named=True)],
        )

    def _with_links(self, rows: pl.DataFrame) -> Iterator[tuple[dict[str, Any], Link | None]]:
        canonical: dict[str, Any] = {}
        for row in rows.iter_rows(named=True):
            row["other_images"] = self._other_images(row)
            if row["is_canonical"]:
                canonical = row
                yield row, None
                continue
            pair = {
                "left_id": self._name(canonical),
                "left_sha256": self._image_of(canonical, row["sha256"]),
                "right_id": self._name(row),
                "right_sha256": row["sha256"],
                "similarity": row["similarity"],
            }
            yield row, self._link(pair)

    def _other_images(self, row: Mapping[str, Any]) -> list[str]:
        """What else the item shows: two members may be linked by any of their images."""
        images = read_catalog(self._view, row["catalog"]).images_of(row["id"])
        others = images["sha256"].drop_nulls().unique(maintain_order=True).to_list()
        return [sha256 for sha256 in others if sha256 != row["sha256"]]

    def _image_of(self, canonical: Mapping[str, Any], sha256: str) -> str:
        """The image of the canonical item that a member has, too; else the one that it shows."""
        images = read_catalog(self._view, canonical["catalog"]).images_of(canonical["id"])
        return sha256 if sha256 in images["sha256"] else canonical["sha256"]

    def _name(self, row: Mapping[str, Any]) -> str:
        """An item as decisions name it: groups across catalogs have the catalog before the id."""
        return f"{row['catalog']}{SEPARATOR}{row['id']}" if self._names_catalogs else row["id"]

    def _link(self, pair: Mapping[str, Any]) -> Link:
        ends = pair["left_id"], pair["right_id"]
        decided = self._verdicts.get(frozenset(ends))
        images = {pair["left_sha256"], pair["right_sha256"]}
        return Link(
            *ends,
            pair["left_sha256"],
            pair["right_sha256"],
            pair["similarity"],
            decided["verdict"] if decided is not None else None,
            decided is not None and {decided["left_sha256"], decided["right_sha256"]} != images,
        )


def _members(view: View, table: str) -> pl.DataFrame:
    commit = view.commit(table)
    return view.cache.get(
        ("group members", table, commit.commit_id),
        lambda: group_members(view.pinned, view.store.table(table, key=commit.key), commit),
    )


def _verdicts(view: View, table: str) -> dict[frozenset[str], dict[str, Any]]:
    """The decisions about pairs of a table as they are now: a reviewer sees each one at once."""
    reviews = view.store.table(f"reviews/{decisions_name(table)}")
    latest = latest_decisions(read_reviews(reviews, reviews.latest()))
    return {frozenset((row["left_id"], row["right_id"])): row for row in latest.to_dicts()}
