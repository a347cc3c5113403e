"""Verifying a store: every checksum of every kept version, and what must hold between tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import polars as pl

from imgsim_assets.catalog.stage import items_table
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.stage import embeddings_table
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import CorruptFileError, ImgsimError
from imgsim_assets.index.stage import index_table, open_index
from imgsim_assets.pipeline.status import catalog_names
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.similarity.audit import Audit, audit_graph, audit_matches
from imgsim_assets.storage.blobs import MISSING
from imgsim_assets.storage.packs import PACKS, list_packs, verify_pack
from imgsim_assets.storage.store import Store

_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Problem:
    """Something that is not as it must be: where, what, and how it is mended."""

    place: str
    what: str


@dataclass
class VerificationReport:
    """What was looked at, and what was found wrong."""

    tables: int = 0
    versions: int = 0
    files: int = 0
    blobs: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)

    def blame(self, place: str, what: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(place, what))


def verify(store: Store, *, sample: int = 20, log: Log = silent) -> VerificationReport:
    """Read everything a store holds and check it; nothing is changed.

    Checksums: every file that a kept version of a table lists, and every image, of which one
    good copy is enough. Invariants:
    ids are unique; every fetched item has its image; every embedded item has a finite vector
    of length 1; an index opens and holds what its table says; every match reaches its
    threshold; `sample` items of each result agree with a plain product (0 for none), which is
    looked at only while nothing else is wrong.
    """
    found = VerificationReport()
    _verify_tables(store, found, log)
    _verify_blobs(store, found, log)
    for name in catalog_names(store):
        _guarded(found, name, partial(_verify_catalog, store, name, found))
    # To compare results, vectors are read in a way that drops damaged ones for their next run.
    compared = 0 if found.problems else sample
    for name in store.table_names():
        _guarded(found, name, partial(_verify_result, store, name, compared, found))
    return found


def _guarded(found: VerificationReport, place: str, check: Callable[[], None]) -> None:
    """A check that cannot be made, because a file is damaged, is a problem itself."""
    try:
        check()
    except ImgsimError as error:
        if not any(problem.what in str(error) for problem in found.problems):
            found.blame(place, str(error))


def _verify_tables(store: Store, found: VerificationReport, log: Log) -> None:
    for name in store.table_names():
        found.tables += 1
        table = store.table(name)
        looked_at: set[str] = set()
        for version in table.versions():
            try:
                commit = table.at(version)
            except ImgsimError as error:
                found.blame(name, str(error))
                continue
            found.versions += 1
            for file in commit.files:
                if file.path in looked_at:
                    continue
                looked_at.add(file.path)
                found.files += 1
                found.bytes += file.bytes
                try:
                    table.read_bytes(file)
                except CorruptFileError as error:
                    found.blame(name, str(error))
        log(f"{name}: {len(looked_at)} files")


def _verify_blobs(store: Store, found: VerificationReport, log: Log) -> None:
    packs = list_packs(store.files)
    lost = store.blobs.missing()
    with Progress("packs of images", len(packs), log, unit="packs") as progress:
        for pack in packs:
            found.bytes += pack.size
            try:
                count, damaged = verify_pack(store.files, pack)
            except CorruptFileError as error:
                found.blame(f"{PACKS}/{pack.name}", str(error))
                continue
            found.blobs += count
            for sha256 in damaged:
                if sha256 not in lost and not _has_good_copy(store, sha256):
                    found.blame(
                        f"{PACKS}/{pack.name}",
                        f"the bytes of image {sha256} do not match the name; create an empty file "
                        f"{store.url}/{MISSING}/{sha256}, and the next run of the images fetches it "
                        "again",
                    )
            progress.advance()


def _has_good_copy(store: Store, sha256: str) -> bool:
    """Whether an image is readable; a damaged copy of it stays until its pack is collected."""
    try:
        store.blobs.get(sha256)
    except CorruptFileError:
        return False
    return True


def _verify_catalog(store: Store, name: str, found: VerificationReport) -> None:
    for table in (items_table(store, name), ledger_table(store, name)):
        newest = table.latest()
        if newest is None:
            continue
        # Without the key, so that a row that is there twice is seen twice.
        ids = pl.concat(
            [table.read_file(file, ["id"]) for file in newest.files_with_role()] or [_NONE]
        )
        complete = all(file.is_snapshot for file in newest.files_with_role())
        if complete and ids["id"].is_duplicated().any():
            twice = ids.filter(ids["id"].is_duplicated())["id"][0]
            found.blame(table.name, f"id {twice!r} stands twice; materialize it again")
    _verify_images(store, name, found)
    _verify_vectors(store, name, found)


_NONE = pl.DataFrame(schema={"id": pl.String})


def _verify_images(store: Store, name: str, found: VerificationReport) -> None:
    table = ledger_table(store, name)
    newest = table.latest()
    if newest is None:
        return
    rows = table.read(newest, columns=["id", "status", "sha256"])
    rows = rows.filter((pl.col("status") == OK) & ~pl.col("sha256").is_in(store.blobs.missing()))
    held = pl.Series(store.blobs.contains(rows["sha256"]), dtype=pl.Boolean)
    for item, sha256 in rows.filter(~held).select("id", "sha256").iter_rows():
        found.blame(
            table.name,
            f"item {item!r} has no image {sha256}; the next run of the embeddings notices, "
            "and the one of the images after it fetches it again",
        )


def _verify_vectors(store: Store, name: str, found: VerificationReport) -> None:
    table = embeddings_table(store, name)
    newest = table.latest()
    if newest is None:
        return
    rows = table.read(newest).filter(pl.col("status") == OK)
    commit = store.table(f"{name}/vectors/{newest.properties[FINGERPRINT]}").latest()
    if commit is None or not rows.height:
        if rows.height:
            found.blame(table.name, "its vectors are gone; materialize the embeddings again")
        return
    vectors = VectorTable(store, name, newest.properties[FINGERPRINT]).table
    stored = vectors.read(commit)
    missing = set(rows["sha256"]) - set(stored["sha256"] if stored.width else ())
    if missing:
        found.blame(
            vectors.name, f"{len(missing)} vectors are missing; materialize the embeddings again"
        )
    if not stored.width:
        return
    numbers = stored["vector"].to_numpy().astype(np.float64)
    lengths = np.sqrt(np.square(numbers).sum(axis=1))
    bad = int((~(np.abs(lengths - 1) <= _NORM_TOLERANCE)).sum())
    if bad:
        found.blame(vectors.name, f"{bad} vectors are not finite or not of length 1")


def _verify_result(store: Store, name: str, sample: int, found: VerificationReport) -> None:
    owner, _, table = name.partition("/")
    kind, _, variant = table.partition(".")
    if kind == "index" and index_table(store, owner).latest() is not None:
        open_index(store, owner)
    elif kind == "similarity_graph" and sample:
        _blame_audit(name, audit_graph(store, owner, sample=sample, variant=variant), found)
    elif owner == "matches":
        _verify_threshold(store, name, found)
        if sample:
            _blame_audit(name, audit_matches(store, table, sample=sample), found)


def _verify_threshold(store: Store, name: str, found: VerificationReport) -> None:
    table = store.table(name)
    newest = table.latest()
    if newest is None:
        return
    low = table.read(newest).filter(pl.col("similarity") < newest.properties["threshold"])
    if low.height:
        found.blame(name, f"{low.height} matches are below the threshold; materialize it again")


def _blame_audit(name: str, audit: Audit, found: VerificationReport) -> None:
    if not audit.passed:
        listed = "; ".join(audit.examples)
        found.blame(
            name,
            f"{audit.missing} pairs missing and {audit.false} false in a sample of "
            f"{audit.sampled} ({listed}); materialize it again",
        )
