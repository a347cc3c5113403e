"""Whether a table was computed from what its inputs hold now: the same images and encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from imgsim_assets.catalog.image_key import IMAGE, image_key
from imgsim_assets.catalog.stage import items_table
from imgsim_assets.download.ledger.table import ROW_KEY, ledger_table
from imgsim_assets.download.shard_items import ShardItems
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.known_failures import VECTORS
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.encoders.vectors import REBUILDS, VectorTable
from imgsim_assets.index.stage import index_table, rebuild_count
from imgsim_assets.pipeline.checks import missing_and_stale
from imgsim_assets.reviews.table import reviews_table
from imgsim_assets.similarity.group_tables import DECISIONS, SEPARATOR, group_decisions, is_groups
from imgsim_assets.similarity.items import vector_rebuilds
from imgsim_assets.similarity.matches import MATCHES, decisions_about, reviewed_name
from imgsim_assets.similarity.materialized import LEFT_ITEMS, RIGHT_ITEMS, read_role
from imgsim_assets.similarity.settings import CROSS_CATALOG_GROUPS
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table, with_key

# An empty table is up to date, but all items of its catalog failed. That of a table is unknown
# where a file of it or of its inputs is damaged.
Freshness = Literal["fresh", "stale", "empty", "missing", "unknown"]
_IMAGES = ["id", IMAGE, "sha256"]
_NO_IMAGES = pl.DataFrame(schema={"id": pl.String, IMAGE: pl.Int32, "sha256": pl.String})


@dataclass(frozen=True)
class Vectors:
    """The images (id, image, sha256) with a vector, their encoder, and the number of rebuilds.

    `fingerprints` has several encoders while the shards of a catalog change from one to another.
    """

    images: pl.DataFrame
    fingerprints: frozenset[str]
    rebuilds: int

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Vectors)
            and (self.fingerprints, self.rebuilds) == (other.fingerprints, other.rebuilds)
            and missing_and_stale(self.images, other.images) == (0, 0)
        )


def read_columns(table: Table, columns: list[str]) -> pl.DataFrame | None:
    """Columns of the newest version of a table; None without one."""
    commit = table.latest()
    if commit is None:
        return None
    rows = table.read(commit, columns=columns)
    return rows.select(columns) if rows.width else None


def embedded(store: Store, name: str) -> Vectors | None:
    """What the embeddings of a catalog hold now."""
    table = embeddings_table(store, name)
    commit = table.latest()
    rows = read_columns(table, [*_IMAGES, "status"])
    if commit is None or rows is None:
        return None
    images = rows.filter(pl.col("status") == OK).select(_IMAGES)
    fingerprints = {file.metadata.get(FINGERPRINT) for file in commit.files_with_role()}
    vectors = VectorTable(store, name, commit.properties[FINGERPRINT])
    return Vectors(images, frozenset(filter(None, fingerprints)), vectors.rebuild_count)


def indexed(store: Store, name: str) -> Vectors | None:
    """What the index of a catalog holds now."""
    commit = index_table(store, name).latest()
    rows = read_columns(index_table(store, name), _IMAGES)
    if commit is None or rows is None:
        return None
    return Vectors(rows, frozenset([commit.properties[FINGERPRINT]]), rebuild_count(commit))


def images_freshness(store: Store, name: str) -> Freshness:
    """Of a ledger: it has a row for every image of the items, under its number and url."""
    columns = [*ROW_KEY, "url"]
    rows = read_columns(ledger_table(store, name), [*columns, "status"])
    if rows is None:
        return "missing"
    if items_table(store, name).latest() is None:
        return "stale"
    images = ShardItems(store, name, Shard(0, 1)).rows
    if missing_and_stale(rows.select(columns), images.select(columns)) != (0, 0):
        return "stale"
    has_images = (rows["status"] == OK).any()
    return "fresh" if has_images or not rows.height else "empty"


def embeddings_freshness(store: Store, name: str) -> Freshness:
    """Of embeddings: they have a row for every image, by one encoder, and a vector for each ok."""
    rows = read_columns(embeddings_table(store, name), [*_IMAGES, "status"])
    images = read_columns(ledger_table(store, name), [*_IMAGES, "status"])
    vectors = embedded(store, name)
    if rows is None or vectors is None:
        return "missing"
    expected = images.filter(pl.col("status") == OK) if images is not None else _NO_IMAGES
    if missing_and_stale(rows.select(_IMAGES), expected.select(_IMAGES)) != (0, 0):
        return "stale"
    if len(vectors.fingerprints) > 1:
        return "stale"
    if not _has_all_vectors(store, name):
        return "stale"
    has_items = images is not None and images.height > 0
    return "empty" if has_items and not vectors.images.height else "fresh"


def index_freshness(store: Store, name: str) -> Freshness:
    """Of an index: it holds the vectors of the embeddings."""
    return _compared(indexed(store, name), embedded(store, name))


def _compared(actual: Vectors | None, expected: Vectors | None) -> Freshness:
    if actual is None:
        return "missing"
    if actual != expected:
        return "stale"
    return "fresh" if actual.images.height else "empty"


def result_freshness(
    table: Table, commit: Commit, left: Vectors | None, right: Vectors | None
) -> Freshness:
    """Of a graph or a match table: it was computed from these vectors.

    Args:
        table: The table.
        commit: Its newest version.
        left: What the left input holds now.
        right: The right input; the same object for a graph, which has one input.
    """
    if left is None or right is None:
        return "stale"
    inputs = [left] if left is right else [left, right]
    return _recorded(table, commit, {LEFT_ITEMS: left.images, RIGHT_ITEMS: right.images}, inputs)


def matches_freshness(
    store: Store, table: Table, commit: Commit, left: Vectors | None, right: Vectors | None
) -> Freshness:
    """Of a match table: it was computed from these vectors and from people's decisions."""
    found = result_freshness(table, commit, left, right)
    if found != "fresh" or left is None or right is None:
        return found
    return found if _honours_decisions(store, commit, left, right) else "stale"


def has_current_decisions(store: Store, commit: Commit) -> bool:
    """Whether a version of a result honours the decisions that people have made until now.

    Results of other kinds than match tables and groups honour all that there are about them: none.
    """
    settings = commit.properties
    if is_groups(commit.table):
        images = _group_images(store, commit)
        return images is None or _groups_honour_decisions(store, commit, images)
    if not commit.table.startswith(MATCHES):
        return True
    if reviews_table(store, reviewed_name(commit.table)).latest() is None:
        return settings.get("decisions") is None
    left, right = embedded(store, settings["left"]), indexed(store, settings["right"])
    return left is None or right is None or _honours_decisions(store, commit, left, right)


def has_current_vectors(store: Store, commit: Commit) -> bool:
    """Whether a version of a table is of the vectors that the store has now.

    True of tables other than embeddings, indexes and match tables, which are made from these. Reads
    commits only, but for embeddings some of whose vectors may have left since.
    """
    name, _, kind = commit.table.partition("/")
    recorded = commit.properties.get(REBUILDS)
    if kind == "embeddings":
        return _has_all_vectors(store, name)
    if kind == "index":
        vectors = VectorTable(store, name, commit.properties[FINGERPRINT])
        return rebuild_count(commit) == vectors.rebuild_count
    if not commit.table.startswith(MATCHES):
        return True
    index = index_table(store, commit.properties["right"]).latest()
    if index is None:
        return False
    left = VectorTable(store, commit.properties["left"], commit.properties[FINGERPRINT])
    rebuilds = vector_rebuilds(left.rebuild_count, rebuild_count(index))
    return recorded == rebuilds.get(REBUILDS)


def _has_all_vectors(store: Store, name: str) -> bool:
    """Whether the embedded images of a catalog still have their vectors."""
    table = embeddings_table(store, name)
    commit = table.latest()
    if commit is None:
        return True
    vectors = VectorTable(store, name, commit.properties[FINGERPRINT])
    generation = vectors.generation
    # Nothing has left the vectors since a file recorded their generation.
    files = [file for file in commit.files_with_role() if file.metadata.get(VECTORS) != generation]
    for file in files:
        rows = table.read_file(file, ["sha256", "status"])
        if not vectors.has_all(rows.filter(pl.col("status") == OK)["sha256"]):
            return False
    return True


def _honours_decisions(store: Store, commit: Commit, left: Vectors, right: Vectors) -> bool:
    settings = commit.properties
    with_itself = settings["left"] == settings["right"]
    images = RowBlocks.of(left.images), RowBlocks.of(right.images)
    decisions = decisions_about(store, commit.table, *images, with_itself=with_itself)
    return decisions.digest == settings.get("decisions")


def groups_freshness(store: Store, table: Table, commit: Commit) -> Freshness:
    """Of duplicate groups: they were computed from the indexes of their catalogs, and decisions."""
    images = _group_images(store, commit)
    if images is None or not _groups_honour_decisions(store, commit, images):
        return "stale"
    inputs = [indexed(store, name) for name in commit.properties["catalogs"]]
    return _recorded(table, commit, {LEFT_ITEMS: images}, [each for each in inputs if each])


def _group_images(store: Store, commit: Commit) -> pl.DataFrame | None:
    """The images of the catalogs of groups as the groups name them; None without an index."""
    of_catalogs = []
    is_cross_catalog = commit.table.startswith(f"{CROSS_CATALOG_GROUPS}/")
    for name in commit.properties["catalogs"]:
        vectors = indexed(store, name)
        if vectors is None:
            return None
        prefix = f"{name}{SEPARATOR}" if is_cross_catalog else ""
        of_catalogs.append(vectors.images.with_columns((pl.lit(prefix) + pl.col("id")).alias("id")))
    return pl.concat(of_catalogs)


def _groups_honour_decisions(store: Store, commit: Commit, images: pl.DataFrame) -> bool:
    decisions = group_decisions(store, commit.table, RowBlocks.of(images))
    return decisions.digest == commit.properties.get(DECISIONS)


def _recorded(
    table: Table, commit: Commit, items: dict[str, pl.DataFrame], inputs: Sequence[Vectors]
) -> Freshness:
    """Compare what a result was computed from with the items and the encoder of its inputs."""
    rebuilds = vector_rebuilds(*(vectors.rebuilds for vectors in inputs)).get(REBUILDS)
    is_same_encoder = all(
        vectors.fingerprints == {commit.properties.get(FINGERPRINT)} for vectors in inputs
    )
    if not is_same_encoder or commit.properties.get(REBUILDS) != rebuilds:
        return "stale"
    for role, expected in items.items():
        recorded = read_role(table, commit, role)
        keys = expected.select(image_key(), "sha256")
        used = keys.clear()
        if recorded is not None:
            rows = with_key(recorded, tuple(ROW_KEY))
            used = rows.select(image_key(), "sha256")
        if missing_and_stale(used, keys) != (0, 0):
            return "stale"
    return "fresh" if all(rows.height for rows in items.values()) else "empty"
