"""The index stage: bring the persisted FAISS index of a catalog up to its embeddings."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import ENCODER, FINGERPRINT
from imgsim_assets.encoders.stage import embeddings_table
from imgsim_assets.encoders.vectors import REBUILDS, VectorTable, vectors_digest
from imgsim_assets.errors import StoreError
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

if TYPE_CHECKING:
    # FAISS is loaded only when an index has to be opened.
    from imgsim_assets.index.flat import FlatIndex

INDEX = "index"
METRIC = "cosine"
FLAT = IndexSettings()
# An index in lists becomes flat only when the items are fewer than the least by this part of
# it, so that a catalog about that size is not indexed anew at every crossing.
_SLACK = 4


@dataclass(frozen=True)
class IndexReport:
    """What a run did. `rebuilt` means that no earlier index could be used."""

    version: int
    items: int
    kind: str
    dim: int
    added: int
    removed: int
    rebuilt: bool
    seconds: float
    bytes: int
    changed: bool
    data_version: str
    fingerprint: str


def index_table(store: Store, name: str) -> Table:
    """`<name>/index`: an index file, and rows number, id, sha256 of what is in it."""
    return store.table(f"{name}/index")


def embedded_items(store: Store, name: str) -> tuple[Commit, pl.DataFrame]:
    """The newest embeddings commit and its items (id, sha256) with a vector, sorted by id.

    Raises StoreError when there is none, or when shards were embedded by different encoders.
    """
    table = embeddings_table(store, name)
    commit = table.latest()
    if commit is None:
        raise StoreError(f"{name}/embeddings has no version yet; materialize it first")
    fingerprints = {file.metadata.get(FINGERPRINT) for file in commit.files_with_role()}
    if len(fingerprints) > 1:
        raise StoreError(
            f"the shards of {name}/embeddings were made by {len(fingerprints)} different "
            "encoders; materialize every shard of the embeddings with the present one"
        )
    rows = table.read(commit).filter(pl.col("status") == OK)
    return commit, rows.select("id", "sha256").sort("id")


def update_index(
    store: Store, name: str, settings: IndexSettings | None = None, *, log: Log = silent
) -> IndexReport:
    """Add and remove what changed since the last version, and commit the new index.

    Without `settings` it stays of the kind that it is; the first one is flat. An index that is
    missing, damaged, outgrown, of another kind or another encoder, or older than vectors that
    were damaged and computed anew, is rebuilt from the vectors.
    """
    started = time.monotonic()
    embeddings, items = embedded_items(store, name)
    fingerprint = embeddings.properties[FINGERPRINT]
    table = index_table(store, name)
    base = table.latest()
    drops = VectorTable(store, name, fingerprint).rebuild_count
    kind = _recipe(settings or _as_it_is(base), base, items.height, fingerprint)
    recipe = {**kind, REBUILDS: drops or None}
    same = base is not None and all(base.properties.get(k) == v for k, v in recipe.items())
    if base is not None and same and _is_current(table, base, items):
        return _report(base, base, items, started=started)
    index = _open_or_none(table, base, log) if same else None
    rebuilt = index is None
    if index is None:
        index = _empty(store, name, items, recipe)
    known = index.entries.select("id", "sha256")
    removed = known.join(items, on=["id", "sha256"], how="anti")
    added = items.join(known, on=["id", "sha256"], how="anti", maintain_order="left")
    index.remove(removed["id"])
    _add(store, name, fingerprint, index, added)
    commit = _commit(table, index, embeddings, base, recipe)
    return _report(
        commit,
        base,
        items,
        added=added.height,
        removed=removed.height,
        rebuilt=rebuilt,
        started=started,
    )


def drops_of(index: Commit) -> int:
    """How often damaged vectors had been dropped when an index was made; see VectorTable.rebuild_count."""
    return int(index.properties.get(REBUILDS) or 0)


def open_index(store: Store, name: str) -> tuple[Commit, FlatIndex]:
    """The newest index of a catalog, its file verified.

    Raises StoreError when there is none, and CorruptFileError when it is damaged.
    """
    table = index_table(store, name)
    commit = table.latest()
    if commit is None:
        raise StoreError(f"{name}/index has no version yet; materialize it first")
    return commit, _open(table, commit)


def _open(table: Table, commit: Commit) -> FlatIndex:
    from imgsim_assets.index.flat import FlatIndex
    from imgsim_assets.index.ivf import IvfIndex

    kind = IvfIndex if commit.properties.get("kind") == IvfIndex.kind else FlatIndex
    file = commit.file_with_role(INDEX)
    if file is None:
        raise StoreError(f"table {table.name} version {commit.version} lists no index file")
    entries = table.read(commit)
    with tempfile.TemporaryDirectory(prefix="imgsim-") as folder:
        path = Path(folder) / "index.faiss"
        # A flipped byte would load without complaint: only verified bytes reach FAISS.
        path.write_bytes(table.read_bytes(file))
        return kind.load(path, entries, commit.properties["next_number"])


def _as_it_is(base: Commit | None) -> IndexSettings:
    """The settings by which an index stays of its kind."""
    if base is None or base.properties["kind"] != "ivf":
        return FLAT
    return IndexSettings(kind="ivf", nprobe=base.properties["nprobe"], min_items=1)


def _recipe(
    settings: IndexSettings, base: Commit | None, items: int, fingerprint: str
) -> dict[str, Any]:
    """The properties by which an index can be told to be of these settings and encoder."""
    least = settings.min_items
    if base is not None and base.properties.get("kind") == "ivf":
        least -= least // _SLACK
    if settings.kind == "ivf" and items >= least:
        return {"kind": "ivf", "nprobe": settings.nprobe, FINGERPRINT: fingerprint}
    return {"kind": "flat", "nprobe": None, FINGERPRINT: fingerprint}


def _is_current(table: Table, base: Commit, items: pl.DataFrame) -> bool:
    if base.rows != items.height:
        return False
    # Only a run of this stage can mend a damaged index, so it looks at every byte.
    return table.verify_checksums(base) and table.read(base, columns=["id", "sha256"]).equals(items)


def _open_or_none(table: Table, base: Commit | None, log: Log) -> FlatIndex | None:
    if base is None:
        return None
    try:
        index = _open(table, base)
    except StoreError as error:
        log(f"the index is rebuilt from the vectors: {error}")
        return None
    # An index that was made without items does not know how wide their vectors are.
    return index if len(index) and not index.outgrown else None


def _empty(store: Store, name: str, items: pl.DataFrame, recipe: Mapping[str, Any]) -> FlatIndex:
    from imgsim_assets.index.flat import FlatIndex
    from imgsim_assets.index.ivf import IvfIndex

    if not items.height:
        return FlatIndex.empty(1)
    vectors = VectorTable(store, name, recipe[FINGERPRINT])
    if recipe["kind"] == IvfIndex.kind:
        return IvfIndex.trained(vectors.read(items["sha256"].to_list()).vectors, recipe["nprobe"])
    return FlatIndex.empty(vectors.read(items["sha256"].head(1).to_list()).vectors.shape[1])


def _add(store: Store, name: str, fingerprint: str, index: FlatIndex, added: pl.DataFrame) -> None:
    if not added.height:
        return
    found = VectorTable(store, name, fingerprint).read(added["sha256"].to_list())
    row = {sha256: position for position, sha256 in enumerate(found.sha256)}
    order = [row[sha256] for sha256 in added["sha256"].to_list()]
    index.add(added["id"], added["sha256"], found.vectors[order])


def _commit(
    table: Table,
    index: FlatIndex,
    embeddings: Commit,
    base: Commit | None,
    recipe: Mapping[str, Any],
) -> Commit:
    with tempfile.TemporaryDirectory(prefix="imgsim-") as folder:
        path = Path(folder) / "index.faiss"
        index.save(path)
        stored = table.upload(path, role=INDEX)
    entries = table.write_rows(index.entries)

    def change(newest: Commit | None) -> PendingCommit | None:
        overtaken = newest is not None and (base is None or newest.version != base.version)
        if overtaken and newest is not None and newest.inputs["embeddings"] > embeddings.version:
            return None  # another run has indexed something newer meanwhile
        return PendingCommit(
            [stored, entries],
            inputs={"embeddings": embeddings.version},
            properties={
                **recipe,
                "metric": METRIC,
                "dim": index.dim,
                "next_number": index.next_number,
                ENCODER: embeddings.properties[ENCODER],
            },
        )

    commit = table.commit(change)
    if commit is None:
        raise AssertionError("an index is always committed the first time")
    return commit


def _report(
    commit: Commit,
    base: Commit | None,
    items: pl.DataFrame,
    *,
    added: int = 0,
    removed: int = 0,
    rebuilt: bool = False,
    started: float,
) -> IndexReport:
    file = commit.file_with_role(INDEX)
    return IndexReport(
        version=commit.version,
        items=commit.rows,
        kind=commit.properties["kind"],
        dim=commit.properties["dim"],
        added=added,
        removed=removed,
        rebuilt=rebuilt,
        seconds=time.monotonic() - started,
        bytes=file.bytes if file else 0,
        changed=base is None or commit.version != base.version,
        data_version=vectors_digest(items, commit.properties[FINGERPRINT], drops_of(commit)),
        fingerprint=commit.properties[FINGERPRINT],
    )
