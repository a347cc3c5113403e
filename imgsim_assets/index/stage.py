"""The index stage: updates the persisted FAISS index of a catalog to its embeddings."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.catalog.image_key import IMAGE
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import ENCODER, FINGERPRINT
from imgsim_assets.encoders.table import embeddings_table, latest_embeddings
from imgsim_assets.encoders.vectors import REBUILDS, VectorTable, vectors_digest
from imgsim_assets.errors import StoreError
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

if TYPE_CHECKING:
    # FAISS is loaded only when an index has to be opened.
    from imgsim_assets.index.flat import FlatIndex, Floats

INDEX = "index"
METRIC = "cosine"
FLAT = IndexSettings()
_IMAGES = ["id", IMAGE, "sha256"]
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
    fingerprint: str


def index_table(store: Store, name: str) -> Table:
    """`<name>/index`: an index file, and a row (number, id, image, sha256) for each vector."""
    return store.table(f"{name}/index", key=("id", IMAGE))


def embedded_images(store: Store, name: str) -> tuple[Commit, pl.DataFrame]:
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
    rows = embeddings_table(store, name).read(commit).filter(pl.col("status") == OK)
    return commit, rows.select(_IMAGES).sort("id", IMAGE)


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
        embeddings, images = embedded_images(self._store, self._name)
        fingerprint = embeddings.properties[FINGERPRINT]
        vectors = VectorTable(self._store, self._name, fingerprint)
        latest = self.table.latest()
        recipe = {
            **_kind(self._settings or _same_kind(latest), latest, images.height),
            FINGERPRINT: fingerprint,
            REBUILDS: vectors.rebuild_count or None,
        }
        same = latest is not None and all(latest.properties.get(k) == v for k, v in recipe.items())
        changes = _Changes()
        rebuilt = False
        if latest is not None and same and _is_current(self.table, latest, images):
            commit = latest
        else:
            index = _open_or_none(self.table, latest, self._log) if same else None
            rebuilt = index is None
            if index is None:
                index = _empty(vectors, images, recipe)
            changes = _update(index, images, vectors)
            commit = _commit(self.table, index, embeddings, latest, recipe)
        file = commit.file_with_role(INDEX)
        return IndexReport(
            version=commit.version,
            # An index of an earlier version has one image per item.
            items=commit.properties.get("items", commit.rows),
            images=commit.rows,
            kind=commit.properties["kind"],
            dim=commit.properties["dim"],
            added=changes.added,
            removed=changes.removed,
            moved=changes.moved,
            rebuilt=rebuilt,
            seconds=time.monotonic() - started,
            bytes=file.bytes if file else 0,
            changed=commit != latest,
            data_version=vectors_digest(
                images, commit.properties[FINGERPRINT], rebuild_count(commit)
            ),
            fingerprint=commit.properties[FINGERPRINT],
        )


@dataclass(frozen=True)
class _Changes:
    """How many images were added to an index, removed from it, and moved within their item."""

    added: int = 0
    removed: int = 0
    moved: int = 0


def _update(index: FlatIndex, images: pl.DataFrame, vectors: VectorTable) -> _Changes:
    """Make an index hold exactly some images (id, image, sha256).

    A vector stays where its item still has the image, under whichever number.
    """
    gone = index.entries.join(images, on=_IMAGES, how="anti")
    added = images.join(index.entries, on=_IMAGES, how="anti", maintain_order="left")
    # An item may have an image twice, under two URLs.
    same = ["id", "sha256", "occurrence"]
    occurrence = pl.col(IMAGE).rank("ordinal").over("id", "sha256").alias("occurrence")
    moved = (
        gone.with_columns(occurrence)
        .drop(IMAGE)
        .join(added.with_columns(occurrence), on=same, how="inner")
        .select(index.entries.columns)
    )
    if gone.height:
        stays = index.entries.join(images, on=_IMAGES, how="semi")
        index.keep(pl.concat([stays, moved]))
    added = added.join(moved, on=_IMAGES, how="anti", maintain_order="left")
    if added.height:
        index.add_parts(added, _parts_of(vectors, added["sha256"]))
    return _Changes(added.height, gone.height - moved.height, moved.height)


def rebuild_count(index: Commit) -> int:
    """How often damaged vectors had been dropped before an index was built; see VectorTable."""
    return int(index.properties.get(REBUILDS) or 0)


def vectors_of(vectors: VectorTable, sha256: pl.Series) -> Floats:
    """The vectors (n, dim) float32 of images, in the order of their sha256.

    Holds one file of vectors at a time beside the result.
    """
    result = np.empty((0, 0), dtype=np.float32)
    for rows, part in _parts_of(vectors, sha256):
        if not result.size:
            result = np.empty((len(sha256), part.shape[1]), dtype=np.float32)
        result[rows] = part
    return result


def _parts_of(
    vectors: VectorTable, sha256: pl.Series
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """The vectors of images, a file at a time: positions in `sha256` (p,), vectors (p, dim)."""
    wanted = sha256.rename("sha256").to_frame().with_row_index("row")
    for part in vectors.read_parts(sha256.unique().to_list()):
        found = pl.DataFrame({"sha256": part.sha256}).with_row_index("at")
        rows = wanted.join(found, on="sha256", how="inner", maintain_order="left")
        yield rows["row"].to_numpy().astype(np.int64), part.vectors[rows["at"].to_numpy()]


def open_index(store: Store, name: str, *, mapped: bool = False) -> tuple[Commit, FlatIndex]:
    """The latest index commit of a catalog and its index, the file verified.

    Args:
        store: the store of the catalog.
        name: the catalog.
        mapped: whether the file stays on disk and is mapped into memory, which processes share.
            The index can then be searched, but not changed.

    Raises:
        StoreError: when there is none.
        CorruptFileError: when the index file is damaged.
    """
    table = index_table(store, name)
    commit = table.latest()
    if commit is None:
        raise StoreError(f"{name}/index has no version yet; materialize it first")
    return commit, _open(table, commit, mapped=mapped)


def _open(table: Table, commit: Commit, *, mapped: bool = False) -> FlatIndex:
    from imgsim_assets.index.flat import FlatIndex
    from imgsim_assets.index.ivf import IvfIndex

    kind = IvfIndex if commit.properties.get("kind") == IvfIndex.kind else FlatIndex
    file = commit.file_with_role(INDEX)
    if file is None:
        raise StoreError(f"table {table.name} version {commit.version} lists no index file")
    entries = table.read(commit)
    if mapped:
        # A mapped file stays readable when it is deleted.
        with table.local_copy(file) as local:
            return kind.load(local, entries, commit.properties["next_number"], mapped=True)
    with tempfile.TemporaryDirectory(prefix="imgsim-") as folder:
        path = Path(folder) / "index.faiss"
        # FAISS would load a flipped byte without an error: it gets verified bytes only.
        path.write_bytes(table.read_bytes(file))
        return kind.load(path, entries, commit.properties["next_number"])


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


def _is_current(table: Table, latest: Commit, images: pl.DataFrame) -> bool:
    if latest.rows != images.height:
        return False
    # Only this stage can rebuild a damaged index, so it verifies every byte.
    return table.verify_checksums(latest) and table.read(latest, columns=_IMAGES).equals(images)


def _open_or_none(table: Table, latest: Commit | None, log: Log) -> FlatIndex | None:
    if latest is None:
        return None
    try:
        index = _open(table, latest)
    except StoreError as error:
        log(f"the index is rebuilt from the vectors: {error}")
        return None
    # An index that was built without images has no vector width.
    return index if len(index) and not index.needs_retraining else None


def _empty(vectors: VectorTable, images: pl.DataFrame, recipe: Mapping[str, Any]) -> FlatIndex:
    from imgsim_assets.index.flat import FlatIndex
    from imgsim_assets.index.ivf import IvfIndex

    if not images.height:
        return FlatIndex.empty(1)
    if recipe["kind"] == IvfIndex.kind:
        # Each distinct vector once, in the order of its sha256.
        training = vectors_of(vectors, images["sha256"].unique().sort())
        return IvfIndex.trained(training, recipe["nprobe"])
    return FlatIndex.empty(vectors.read(images["sha256"].head(1).to_list()).vectors.shape[1])


def _commit(
    table: Table,
    index: FlatIndex,
    embeddings: Commit,
    latest: Commit | None,
    recipe: Mapping[str, Any],
) -> Commit:
    with tempfile.TemporaryDirectory(prefix="imgsim-") as folder:
        path = Path(folder) / "index.faiss"
        index.save(path)
        stored = table.upload(path, role=INDEX)
    entries = table.write_rows(index.entries)

    pending = PendingCommit(
        [stored, entries],
        inputs={"embeddings": embeddings.version},
        properties={
            **recipe,
            "metric": METRIC,
            "dim": index.dim,
            "items": index.entries["id"].n_unique(),
            "next_number": index.next_number,
            ENCODER: embeddings.properties[ENCODER],
        },
    )

    def change(newest: Commit | None) -> PendingCommit | None:
        if newest is not None and newest != latest:
            is_newer = newest.inputs["embeddings"] > embeddings.version
            contents = [file.sha256 for file in newest.files]
            if is_newer or (
                contents == [file.sha256 for file in pending.files]
                and newest.properties == pending.properties
            ):
                return None  # another run has committed a newer index, or the same one
        return pending

    commit = table.commit(change)
    if commit is None:
        raise AssertionError("an index is always committed the first time")
    return commit
