"""The results whose pairs people judge: match tables, and duplicate groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imgsim_assets.errors import StoreError
from imgsim_assets.reviews.table import GROUPS, REVIEWS
from imgsim_assets.similarity.group_tables import SEPARATOR, is_groups, reviewed_groups
from imgsim_assets.similarity.matches import MATCHES, reviewed_name
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

Side = Literal["left", "right"]
_GROUPS = f"{GROUPS}/"


@dataclass(frozen=True)
class Reviewed:
    """A match table, or duplicate groups, as its decisions know it.

    Attributes:
        name: of its decisions below "reviews/": "products__suppliers", or "groups/photos".
        catalogs: left and right of a match table, all catalogs of groups.
    """

    name: str
    catalogs: tuple[str, ...]

    @property
    def is_groups(self) -> bool:
        """Whether these are groups: a pair of them has no direction."""
        return self.name.startswith(_GROUPS)

    @property
    def is_ordered(self) -> bool:
        """Whether (a, b) and (b, a) are different pairs."""
        return not self.is_groups and self.catalogs[0] != self.catalogs[1]

    def decisions(self, store: Store) -> Table:
        """The table of its decisions."""
        return store.table(f"{REVIEWS}/{self.name}")

    def catalogs_of(self, side: Side) -> tuple[str, ...]:
        """The catalogs whose items are on a side of its pairs."""
        return self.catalogs if self.is_groups else (self.catalogs[side == "right"],)

    def prefix(self, catalog: str) -> str:
        """What its decisions write before the id of an item of a catalog."""
        has_several = self.is_groups and len(self.catalogs) > 1
        return f"{catalog}{SEPARATOR}" if has_several else ""

    def item(self, side: Side, key: str) -> tuple[str, str]:
        """The catalog and the id of an item that a decision names.

        Groups across catalogs name an item as catalog/id.

        Raises:
            StoreError: when the groups have no such catalog.
        """
        if not self.is_groups:
            return self.catalogs[side == "right"], key
        if len(self.catalogs) == 1:
            return self.catalogs[0], key
        catalog, _, item = key.partition(SEPARATOR)
        if catalog not in self.catalogs:
            raise StoreError(
                f"{key!r} is no item of {self.name}; write the catalog before the id, such as "
                f"{self.catalogs[0]}{SEPARATOR}{item or key}"
            )
        return catalog, item


def find_reviewed(store: Store, name: str) -> Reviewed:
    """A result of a store by the name of its decisions.

    Args:
        store: the store.
        name: a match table, such as "products__suppliers", or groups, such as "groups/photos".

    Raises:
        StoreError: when the store has no such result; names those that it has.
    """
    found: dict[str, str] = {}
    for table in store.table_names():
        known = name_of_decisions(table)
        if known is not None:
            found.setdefault(known, table)
    commit = store.table(found[name]).latest() if name in found else None
    if commit is None:
        kind = "groups" if name.startswith(_GROUPS) else "match table"
        existing = ", ".join(found) or "none"
        raise StoreError(f"{store.url} has no {kind} {name!r}; it has {existing}")
    properties = commit.properties
    if name.startswith(_GROUPS):
        return Reviewed(name, tuple(properties["catalogs"]))
    return Reviewed(name, (str(properties["left"]), str(properties["right"])))


def name_of_decisions(table: str) -> str | None:
    """Under which name the pairs of a table are judged; None of a table of another kind."""
    if table.startswith(MATCHES):
        return reviewed_name(table)
    return reviewed_groups(table) if is_groups(table) else None
