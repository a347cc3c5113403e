"""The index stage: updates the persisted FAISS index of a catalog to its embeddings."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from imgsim_assets.catalog.image_key import IMAGE
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import ENCODER, FINGERPRINT, recorded_name
from imgsim_assets.encoders.table import embeddings_table, latest_embeddings
from imgsim_assets.encoders.vectors import REBUILDS, VectorTable, vectors_digest
from imgsim_assets.errors import StoreError
from imgsim_assets.index.entries import (
    ENTRIES_SCHEMA,
    IMAGES,
    IMAGES_SCHEMA,
    NO_ENTRIES,
    NUMBER,
    EntriesUpdate,
    update_entries,
)
from imgsim_assets.index.index_file import part_checksums
from imgsim_assets.index.opening import INDEX, PART_CHECKSUMS, open_version
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.progress import Log, silent
from imgsim_assets.scratch import scratch_folder
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.gc import SHA256
from imgsim_assets.storage.id_blocks import id_blocks
from imgsim_assets.storage.row_blocks import RowBlocks, item_count
from imgsim_assets.storage.sorted_rows import sorted_rows
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

if TYPE_CHECKING:
    # FAISS is loaded only when an index has to be opened.
    from imgsim_assets.index.flat import FlatIndex
    from imgsim_assets.index.vector_file import Floats

METRIC = "cosine"
_KEY = ["id", IMAGE]
_HAS_VECTOR = "has_vector"
FLAT = IndexSettings()
# An ivf index becomes flat only when the items are fewer than three quarters of min_items, so
# that a catalog of about that size does not change its kind back and forth.
_HYSTERESIS = 4


@dataclass(frozen=True)
class IndexReport:
    """The outcome of a run.

    Attributes:
        version: of the index.
        items: items that have an image in the index.
        images: images in the index, each with a vector.
        kind: flat or ivf.
        dim: width of the vectors.
        added: images that were added.
        removed: images that were removed.
        moved: images that stayed, with another number within their item.
        rebuilt: whether no earlier index could be updated.
        seconds: duration of the run.
        bytes: size of the index file.
        changed: whether the run committed a new version.
        data_version: digest of which image of which item has which vector.
        encoder: of the vectors, in words.
        fingerprint: of the encoder.
    """

    version: int
    items: int
    images: int
    kind: str
    dim: int
    added: int
    removed: int
    moved: int
    rebuilt: bool
    seconds: float
    bytes: int
    changed: bool
    data_version: str
    encoder: str
    fingerprint: str


def index_table(store: Store, name: str) -> Table:
    """`<name>/index`: an index file, and a row (number, id, image, sha256) for each vector."""
    return store.table(f"{name}/index", key=("id", IMAGE))


def embedded_rows(store: Store, name: str) -> tuple[Commit, RowBlocks]:
    """The latest embeddings commit and its images (id, image, sha256) with a vector, sorted.

    Raises:
        StoreError: when there is none, or when its shards are of different encoders.
    """
    commit = latest_embeddings(store, name)
    fingerprints = {file.metadata.get(FINGERPRINT) for file in commit.files_with_role()}
    if len(fingerprints) > 1:
        raise StoreError(
            f"the shards of {name}/embeddings were made by {len(fingerprints)} different "
            "encoders; materialize every shard of the embeddings with the current one"
        )
    has_vector = (pl.col("status") == OK).alias(_HAS_VECTOR)
    parts = (
        part.select(*IMAGES, has_vector)
        for part in embeddings_table(store, name).read_parts(commit, columns=[*IMAGES, "status"])
    )
    # A later row of an image counts, whatever its status.
    schema = pl.Schema({**IMAGES_SCHEMA, _HAS_VECTOR: pl.Boolean})
    rows = sorted_rows(parts, schema, _KEY)
    with_vector = rows.map(
        lambda block: block.filter(_HAS_VECTOR).drop(_HAS_VECTOR), pl.Schema(IMAGES_SCHEMA)
    )
    return commit, with_vector


def embedded_images(store: Store, name: str) -> tuple[Commit, pl.DataFrame]:
    """As `embedded_rows`, with all rows in memory."""
    commit, rows = embedded_rows(store, name)
    return commit, rows.all()


def index_rows(store: Store, name: str, commit: Commit) -> RowBlocks:
    """The images (id, image, sha256) of a version of an index, sorted."""
    parts = index_table(store, name).read_parts(commit, columns=IMAGES)
    return sorted_rows((part.select(IMAGES) for part in parts), pl.Schema(IMAGES_SCHEMA), _KEY)


class IndexStage:
    """Updates the persisted FAISS index of a catalog to match its embeddings."""

    def __init__(
        self, store: Store, name: str, settings: IndexSettings | None = None, *, log: Log = silent
    ) -> None:
        """Prepare the stage.

        Args:
            store: the store of the catalog.
            name: the catalog.
            settings: kind and parameters of the index; None keeps the kind of the committed
                index, and a first index is flat.
            log: receives a line when an index cannot be read and is rebuilt.
        """
        self.table = index_table(store, name)
        self._store, self._name, self._settings, self._log = store, name, settings, log

    def run(self) -> IndexReport:
        """Add and remove the images that changed since the last version, and commit the index.

        An index is rebuilt from the vectors when it is missing, damaged, in need of retraining,
        of another kind or another encoder, or older than vectors that were damaged and
        recomputed. Nothing is committed when the index is current.

        Raises:
            StoreError: when the embeddings are missing or mix several encoders.
        """
        started = time.monotonic()
        embeddings, images = embedded_rows(self._store, self._name)
        fingerprint = embeddings.properties[FINGERPRINT]
        vectors = VectorTable(self._store, self._name, fingerprint)
        latest = self.table.latest()
        recipe = {
            **_kind(self._settings or _same_kind(latest), latest, len(images)),
            FINGERPRINT: fingerprint,
            REBUILDS: vectors.rebuild_count or None,
        }
        same = latest is not None and all(latest.properties.get(k) == v for k, v in recipe.items())
        changes, is_rebuilt = None, False
        if latest is not None and same and self._is_current(latest, images):
            commit = latest
        else:
            index = _open_or_none(self.table, latest, self._log) if same else None
            is_rebuilt = index is None
            changes = self._changes(index, latest, images)
            commit = self._write(index, changes, vectors, embeddings, latest, recipe)
        file = commit.file_with_role(INDEX)
        return IndexReport(
            version=commit.version,
            # An index of an earlier version has one image per item.
            items=commit.properties.get("items", commit.rows),
            images=commit.rows,
            kind=commit.properties["kind"],
            dim=commit.properties["dim"],
            added=len(changes.added) if changes is not None else 0,
            removed=changes.removed if changes is not None else 0,
            moved=changes.moved if changes is not None else 0,
            rebuilt=is_rebuilt,
            seconds=time.monotonic() - started,
            bytes=file.bytes if file else 0,
            changed=commit != latest,
            data_version=vectors_digest(
                images, commit.properties[FINGERPRINT], rebuild_count(commit)
            ),
            encoder=recorded_name(commit),
            fingerprint=commit.properties[FINGERPRINT],
        )

    def _is_current(self, latest: Commit, images: RowBlocks) -> bool:
        if latest.rows != len(images):
            return False
        # Only this stage can rebuild a damaged index, so it verifies every byte.
        is_intact = self.table.verify_checksums(latest)
        return is_intact and index_rows(self._store, self._name, latest).equals(images)

    def _changes(
        self, index: FlatIndex | None, latest: Commit | None, images: RowBlocks
    ) -> EntriesUpdate:
        """How the entries of an index become those of some images."""
        if index is None or latest is None:
            return update_entries(NO_ENTRIES, 0, images)
        parts = (part.select(list(ENTRIES_SCHEMA)) for part in self.table.read_parts(latest))
        before = sorted_rows(parts, pl.Schema(ENTRIES_SCHEMA), _KEY)
        return update_entries(before, index.next_number, images)

    def _write(
        self,
        index: FlatIndex | None,
        changes: EntriesUpdate,
        vectors: VectorTable,
        embeddings: Commit,
        latest: Commit | None,
        recipe: Mapping[str, Any],
    ) -> Commit:
        """Write and commit the file and the entries of an updated or a new index."""
        from imgsim_assets.index.build import write_index

        with scratch_folder() as folder:
            path = folder / "index.faiss"
            dim = write_index(path, index, changes, vectors, recipe["nprobe"])
            file = self.table.upload(path, role=INDEX)
            file = file.with_metadata(**{PART_CHECKSUMS: part_checksums(path)})
        entries, existing = changes.entries, latest.files_with_role() if latest else ()
        files = [
            self.table.write_rows(entries.read(block.start, block.stop), existing=existing)
            for block in id_blocks(entries)
        ]
        pending = PendingCommit(
            [file, *files],
            inputs={"embeddings": embeddings.version},
            properties={
                **recipe,
                "metric": METRIC,
                "dim": dim,
                "items": item_count(entries),
                "next_number": changes.next_number,
                ENCODER: embeddings.properties[ENCODER],
            },
        )
        commit = self.table.commit(partial(_unless_committed, pending, latest))
        if commit is None:
            raise AssertionError("an index is always committed the first time")
        return commit


def _unless_committed(
    pending: PendingCommit, read: Commit | None, newest: Commit | None
) -> PendingCommit | None:
    """The pending commit, unless another run has committed a newer index, or the same one."""
    is_newer = (
        newest is not None
        and newest != read
        and newest.inputs["embeddings"] > pending.inputs["embeddings"]
    )
    return None if is_newer or pending.is_repeated(newest, read) else pending


def rebuild_count(index: Commit) -> int:
    """How often damaged vectors had been dropped before an index was built; see VectorTable."""
    return int(index.properties.get(REBUILDS) or 0)


def vectors_of(vectors: VectorTable, sha256: pl.Series) -> Floats:
    """The vectors (n, dim) float32 of images, in the order of their sha256.

    Holds one file of vectors at a time beside the result.
    """
    result = np.empty((0, 0), dtype=np.float32)
    for rows, part in vectors.read_rows(RowBlocks.of(sha256.alias(SHA256).to_frame())):
        if not result.size:
            result = np.empty((len(sha256), part.shape[1]), dtype=np.float32)
        result[rows] = part
    return result


def latest_index(store: Store, name: str) -> Commit:
    """The latest index commit of a catalog; StoreError when there is none."""
    commit = index_table(store, name).latest()
    if commit is None:
        raise StoreError(f"{name}/index has no version yet; materialize it first")
    return commit


def open_index(store: Store, name: str) -> tuple[Commit, FlatIndex]:
    """The latest index commit of a catalog and its index, the file verified.

    The file, or a temporary copy of a remote one, is mapped into memory, which processes share.

    Raises:
        StoreError: when there is none.
        CorruptFileError: when the index file is damaged.
    """
    commit = latest_index(store, name)
    return commit, open_version(index_table(store, name), commit)


def _same_kind(latest: Commit | None) -> IndexSettings:
    """The settings by which an index keeps its kind."""
    if latest is None or latest.properties["kind"] != "ivf":
        return FLAT
    return IndexSettings(kind="ivf", nprobe=latest.properties["nprobe"], min_items=1)


def _kind(settings: IndexSettings, latest: Commit | None, images: int) -> dict[str, Any]:
    """The properties that describe the kind of an index of a number of images."""
    min_items = settings.min_items
    if latest is not None and latest.properties.get("kind") == "ivf":
        min_items -= min_items // _HYSTERESIS
    if settings.kind == "ivf" and images >= min_items:
        return {"kind": "ivf", "nprobe": settings.nprobe}
    return {"kind": "flat", "nprobe": None}


def _open_or_none(table: Table, latest: Commit | None, log: Log) -> FlatIndex | None:
    if latest is None:
        return None
    try:
        index = open_version(table, latest, [NUMBER])
    except StoreError as error:
        log(f"the index is rebuilt from the vectors: {error}")
        return None
    # An index that was built without images has no vector width.
    return index if len(index) and not index.needs_retraining else None
