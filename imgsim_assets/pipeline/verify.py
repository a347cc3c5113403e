"""Verification of a store: every checksum of every version, and the invariants of its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import polars as pl

from imgsim_assets.catalog.image_key import describe_image
from imgsim_assets.catalog.stage import items_table
from imgsim_assets.download.ledger.table import (
    ROW_KEY,
    empty_ledger,
    ledger_table,
    with_all_columns,
)
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.errors import CorruptFileError, ImgsimError
from imgsim_assets.index.stage import index_table, open_index
from imgsim_assets.pipeline import checks, group_checks
from imgsim_assets.pipeline.check_result import CheckResult
from imgsim_assets.pipeline.settings import CheckSettings
from imgsim_assets.pipeline.status import catalog_names
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.reviews.table import REPAIR, REVIEWS
from imgsim_assets.similarity.audit import audit_graph, audit_matches
from imgsim_assets.similarity.settings import CROSS_CATALOG_GROUPS, METHOD
from imgsim_assets.storage.damage import BytesRead, Damage
from imgsim_assets.storage.gc import LOCATION
from imgsim_assets.storage.pack_damage import inspect_index_files, inspect_pack
from imgsim_assets.storage.packs import list_packs
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table_damage import inspect_table
from imgsim_assets.storage.table_files import REBUILD
from imgsim_assets.text import counted

# Items without an image that are listed one by one.
_MAX_LISTED_ITEMS = 20


@dataclass(frozen=True)
class Problem:
    """A problem: the table or file, and a message with the problem and its fix."""

    location: str
    message: str


@dataclass
class VerificationReport(BytesRead):
    """Counts of what was read, the problems found, and what a person should look at."""

    tables: int = 0
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def add_problem(self, location: str, message: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(location, message))

    def add(self, location: str, result: CheckResult) -> None:
        """Add a problem if a check failed."""
        if not result.passed:
            self.add_problem(location, result.problem)

    def has_problem(self, location: str) -> bool:
        """Whether a problem of a table or file is known."""
        return any(problem.location == location for problem in self.problems)


def verify(store: Store, *, sample_size: int = 20, log: Log = silent) -> VerificationReport:
    """Read and check everything that a store holds; nothing is changed.

    Checksums: every commit, every file that a version of a table lists, every pack and every index
    file, and every image that stays where it lies. Invariants: ids are unique; every fetched item
    has its image; every embedded image has a finite vector of length 1; an index opens and holds
    what its table says; every match reaches its threshold; every group has one canonical item;
    approximate results have the declared recall.
    Warnings: groups that probably join different images, by the default limits.

    Args:
        store: the store.
        sample_size: items of each result to compare with a brute-force product of all vectors;
            0 for none. Results are compared only while nothing else is wrong.
        log: receives progress messages.

    Returns:
        What was read, and every problem with its fix.

    Raises:
        FormatError: when another version of imgsim_assets wrote the store.
    """
    report = VerificationReport(tables=len(store.table_names()))
    for damage in find_damage(store, report, log):
        report.add_problem(damage.location, _message(damage))
    for name in catalog_names(store):
        _run_check(report, name, partial(_verify_catalog, store, name, report))
    # Comparing reads vectors, which drops damaged ones, and verifying changes nothing.
    compared_items = 0 if report.problems else sample_size
    for name in store.table_names():
        _run_check(report, name, partial(_verify_result, store, name, compared_items, report))
    return report


def _message(damage: Damage) -> str:
    """What is damaged and the fix; no run computes decisions again."""
    rebuilt = damage.message.endswith(REBUILD)
    if not rebuilt or not damage.location.startswith(f"{REVIEWS}/"):
        return damage.message
    return f"{damage.message.removesuffix(REBUILD)}{REPAIR}"


def _run_check(report: VerificationReport, location: str, check: Callable[[], None]) -> None:
    """Run a check; a damaged file that it cannot read is added as a problem."""
    try:
        check()
    except ImgsimError as error:
        if not any(problem.message in str(error) for problem in report.problems):
            report.add_problem(location, str(error))


def find_damage(store: Store, read: BytesRead, log: Log) -> Iterator[Damage]:
    """Read every byte of the store, and compare it with the checksums."""
    for name in store.table_folders():
        before = read.files
        yield from inspect_table(store, name, read)
        log(f"{name}: {counted(read.files - before, 'file')}")
    yield from inspect_index_files(store.files, read)
    packs = list_packs(store.files)
    with Progress("packs of images", len(packs), log, unit="packs") as progress:
        for pack in packs:
            damage = inspect_pack(store.files, pack, read)
            if damage is not None:
                yield damage
            progress.advance()


def _verify_catalog(store: Store, name: str, report: VerificationReport) -> None:
    tables = (items_table(store, name), ledger_table(store, name), embeddings_table(store, name))
    for table in tables:
        report.add(table.name, checks.ids_unique_in_table(table))
    _verify_images(store, name, report)
    _verify_images_in_place(store, name, report)
    _verify_vectors(store, name, report)


def _verify_images(store: Store, name: str, report: VerificationReport) -> None:
    missing = missing_images(store, name)
    for item, image, sha256 in missing.head(_MAX_LISTED_ITEMS).iter_rows():
        report.add_problem(
            ledger_table(store, name).name,
            f"{describe_image(item, image)} has no image {sha256}; the next run of the images "
            "fetches it again",
        )
    if missing.height > _MAX_LISTED_ITEMS:
        more = missing.height - _MAX_LISTED_ITEMS
        report.add_problem(ledger_table(store, name).name, f"{more} more images are missing")


def _verify_images_in_place(store: Store, name: str, report: VerificationReport) -> None:
    """Read the images that stay where they lie."""
    table = ledger_table(store, name)
    newest = table.latest()
    if newest is None:
        return
    rows = with_all_columns(table.read(newest)).filter(
        (pl.col("status") == OK) & pl.col(LOCATION).is_not_null()
    )
    rows = rows.join(missing_images(store, name), on=ROW_KEY, how="anti")
    problems = 0
    for item, image, sha256, size in rows.select(*ROW_KEY, "sha256", "bytes").iter_rows():
        try:
            store.blobs.get(sha256)
        except CorruptFileError as error:
            problems += 1
            if problems <= _MAX_LISTED_ITEMS:
                report.add_problem(table.name, f"{describe_image(item, image)}: {error}")
            continue
        report.blobs += 1
        report.bytes += size
    if problems > _MAX_LISTED_ITEMS:
        more = problems - _MAX_LISTED_ITEMS
        report.add_problem(table.name, f"{more} more images have changed or missing files")


def missing_images(store: Store, name: str) -> pl.DataFrame:
    """The images (id, image, sha256) that are in no pack, or were reported missing."""
    table = ledger_table(store, name)
    newest = table.latest()
    if newest is None:
        return empty_ledger().select(*ROW_KEY, "sha256")
    rows = with_all_columns(table.read(newest, columns=["status", "sha256"]))
    rows = rows.filter(pl.col("status") == OK)
    has_image = pl.Series(store.blobs.contains(rows["sha256"]), dtype=pl.Boolean)
    reported = pl.col("sha256").is_in(list(store.blobs.missing()))
    return rows.filter(~has_image | reported).select(*ROW_KEY, "sha256")


def _verify_vectors(store: Store, name: str, report: VerificationReport) -> None:
    commit = embeddings_table(store, name).latest()
    if commit is None:
        return
    vectors = f"{name}/vectors/{commit.properties[FINGERPRINT]}"
    # The check drops damaged vectors, and verifying changes nothing.
    if not report.has_problem(vectors):
        report.add(vectors, checks.vectors_normalized(store, name))


def _verify_result(store: Store, name: str, sample_size: int, report: VerificationReport) -> None:
    catalog, _, table = name.partition("/")
    kind, _, variant = table.partition(".")
    if (commit := store.table(name).latest()) is not None and METHOD in commit.properties:
        report.add(name, checks.result_recall(commit))
    if kind == "index" and index_table(store, catalog).latest() is not None:
        open_index(store, catalog)
    elif kind == "similarity_graph" and sample_size:
        audit = audit_graph(store, catalog, sample=sample_size, variant=variant)
        report.add(name, checks.agrees_with_brute_force(audit))
    elif catalog == "matches" and (commit := store.table(name).latest()) is not None:
        rows = store.table(name).read(commit)
        report.add(name, checks.at_or_above_threshold(rows, commit.properties["threshold"]))
        if sample_size:
            audit = audit_matches(store, table, sample=sample_size)
            report.add(name, checks.agrees_with_brute_force(audit))
    elif (
        CROSS_CATALOG_GROUPS in (catalog, kind)
        and (commit := store.table(name).latest()) is not None
    ):
        groups = store.table(name)
        report.add(name, group_checks.one_canonical_per_group(groups.read(commit)))
        coherent = group_checks.groups_coherent(groups, commit, CheckSettings())
        if not coherent.passed:
            report.warnings.append(Problem(name, coherent.problem))
