"""The invariants of the tables, each implemented once.

Asset checks, `imgsim verify` and `imgsim status` are three ways to ask these functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from imgsim_assets.catalog.image_key import IMAGE, describe_image
from imgsim_assets.download.ledger.counts import count_images
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.known_failures import VECTORS
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.encoders.vectors import VectorAudit, VectorTable
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.evaluation.stage import EncoderEvaluation
from imgsim_assets.index.stage import embedded_images, index_table
from imgsim_assets.pipeline.check_result import CheckResult, problem_of
from imgsim_assets.pipeline.shards import shards_of
from imgsim_assets.reviews.table import MATCH
from imgsim_assets.similarity.approximate.recall import NOT_MEASURED
from imgsim_assets.similarity.approximate.search import recall_of
from imgsim_assets.similarity.audit import Audit, drift
from imgsim_assets.similarity.settings import MIN_RECALL
from imgsim_assets.storage.commit import Commit, key_columns
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets.text import counted

if TYPE_CHECKING:
    from imgsim_assets.index.flat import FlatIndex

# A vector finds its own image unless float32 rounding puts an equal one before it.
_SELF_TOLERANCE = 1e-5
_IMAGES = ["id", IMAGE, "sha256"]


def ids_unique(keys: pl.DataFrame) -> CheckResult:
    """No id occurs twice, or in a table of images no (id, image)."""
    repeated = keys.height - keys.n_unique()
    if not repeated:
        return CheckResult({"repeated": 0})
    first = keys.filter(keys.is_duplicated()).row(0)
    name = describe_image(*first) if len(first) > 1 else f"id {first[0]!r}"
    return CheckResult({"repeated": repeated}, f"{name} occurs twice; materialize the table again")


def ids_unique_in_table(table: Table) -> CheckResult:
    """No id occurs twice in the newest version of a table; passes while a run is in progress."""
    commit = table.latest()
    files = commit.files_with_role() if commit is not None else []
    if not files or not all(file.is_snapshot for file in files):
        return ids_unique(pl.DataFrame(schema={"id": pl.String}))
    # File by file: a read by key would merge an id that occurs twice.
    keys = key_columns(table.key)
    return ids_unique(pl.concat(table.read_file(file, keys).select(keys) for file in files))


def no_rejects(name: str, rows: int, images: int) -> CheckResult:
    """No row or image of the source of a catalog was rejected."""
    return CheckResult(
        {"rejected": rows, "rejected_images": images},
        problem_of(
            f"'imgsim failures {name}' shows them and why",
            (rows, "rejected row"),
            (images, "rejected image"),
        ),
    )


def success_rate(store: Store, name: str, minimum: float) -> CheckResult:
    """At least the fraction `minimum` of the images of a catalog's items were fetched.

    A catalog without items passes: it lacks no image, and downstream assets must be emptied too.
    """
    table = ledger_table(store, name)
    commit = table.latest()
    counts = count_images(table, commit, shards_of(commit)) if commit is not None else {}
    images, ok = counts.get("images", 0), counts.get("ok", 0)
    rate = ok / images if images else 1.0
    return CheckResult(
        {
            "success_rate": round(rate, 4),
            "min": minimum,
            "ok": ok,
            "images": images,
            "items": counts.get("items", 0),
            "usable_items": counts.get("usable_items", 0),
        },
        ""
        if rate >= minimum
        else f"{ok} of {counted(images, 'image')} fetched, less than the {minimum:.1%} of "
        f"min_success_rate; 'imgsim failures {name}' shows why, 'imgsim retry {name} --all' tries "
        "the others again",
    )


def vectors_normalized(
    store: Store, name: str, shards: Sequence[Shard] | None = None
) -> CheckResult:
    """Every embedded image of a catalog has a finite vector of length 1.

    With `shards`, only their rows are read: their images are looked up in the keys of the vectors
    where vectors have left the table since the rows were committed, and the files of vectors count
    as they were measured when they were written. A vector is read only where a file is known to
    have a bad one. Without, every vector is read.
    """
    table = embeddings_table(store, name)
    commit = table.latest()
    if commit is None:
        return CheckResult({"vectors": 0, "bad": 0, "missing": 0}, "there are no embeddings")
    vectors = VectorTable(store, name, commit.properties[FINGERPRINT])
    if shards is not None and vectors.is_recorded_normalized():
        audit = _recorded_vectors(table, commit, vectors, shards)
    else:
        # Shard by shard, so that memory does not grow with the catalog.
        audit = vectors.audit(
            rows.filter(pl.col("status") == OK)["sha256"]
            for shard in (shards_of(commit) if shards is None else shards)
            if (rows := table.read(commit, shard=shard, columns=["sha256", "status"])).width
        )
    return CheckResult(
        {"vectors": audit.vectors, "bad": audit.bad, "missing": audit.missing},
        problem_of(
            "materialize the embeddings again, in a shell by 'imgsim run'",
            (audit.missing, "image without a vector", "images without a vector"),
            (
                audit.bad,
                "vector not finite or not of length 1",
                "vectors not finite or not of length 1",
            ),
        ),
    )


def _recorded_vectors(
    table: Table, commit: Commit, vectors: VectorTable, shards: Sequence[Shard]
) -> VectorAudit:
    """How many images of some shards have a vector, as their rows and the keys of vectors say."""
    generation = vectors.generation
    found: set[str] = set()
    uncertain: set[str] = set()
    for shard in shards:
        rows = table.read(commit, shard=shard, columns=["sha256", "status"])
        if not rows.width:
            continue
        images = rows.filter(pl.col("status") == OK)["sha256"].to_list()
        files = commit.row_files_for_shard(shard)
        is_recorded = all(file.metadata.get(VECTORS) == generation for file in files)
        (found if generation is not None and is_recorded else uncertain).update(images)
    missing = vectors.missing(uncertain - found)
    if missing:
        vectors.begin_generation()
    return VectorAudit(len(found | uncertain) - len(missing), 0, len(missing))


def ids_match_embeddings(store: Store, name: str) -> CheckResult:
    """A catalog's index holds exactly the embedded images."""
    _, images = embedded_images(store, name)
    table = index_table(store, name)
    commit = table.latest()
    entries = (
        table.read(commit, columns=_IMAGES).select(_IMAGES)
        if commit is not None
        else images.clear()
    )
    missing, stale = missing_and_stale(entries, images)
    return CheckResult(
        {"images": entries.height, "missing": missing, "stale": stale},
        problem_of(
            f"materialize {name}/index again",
            (missing, "missing image"),
            (stale, "stale image"),
        ),
    )


def missing_and_stale(actual: pl.DataFrame, expected: pl.DataFrame) -> tuple[int, int]:
    """How many expected rows a table lacks, and how many it has that are not expected."""
    columns = expected.columns
    missing = expected.join(actual, on=columns, how="anti", nulls_equal=True).height
    return missing, actual.join(expected, on=columns, how="anti", nulls_equal=True).height


def self_recall(index: FlatIndex, sample_size: int) -> CheckResult:
    """Sampled vectors of an index find their own image, or one of the same vector, first."""
    sampled = np.sort(np.random.default_rng(0).permutation(len(index))[:sample_size])
    not_found = 0
    if len(sampled):
        positions, similarities = index.search(index.vectors_at(sampled), 1)
        sha256 = index.entries["sha256"].to_list()
        not_found = sum(
            sha256[nearest] != sha256[query] and not similarity >= 1 - _SELF_TOLERANCE
            for query, nearest, similarity in zip(
                sampled.tolist(), positions[:, 0].tolist(), similarities[:, 0].tolist(), strict=True
            )
        )
    return CheckResult(
        {"sampled": len(sampled), "not_found": not_found},
        f"{not_found} of {len(sampled)} sampled vectors do not find their own image; delete the "
        "folder of the index in the store and materialize it again"
        if not_found
        else "",
    )


def recall_at_10(index: FlatIndex, minimum: float, sample_size: int) -> CheckResult:
    """A search finds the fraction `minimum` of the 10 nearest neighbors of sampled images."""
    measured = index.recall(k=10, sample=sample_size)
    return CheckResult(
        {"recall": measured, "min": minimum, "sampled": min(len(index), sample_size)},
        ""
        if measured >= minimum
        else f"a search finds {measured:.2%} of the 10 nearest neighbors, less than the "
        f"{minimum:.2%} of min_recall; raise 'nprobe', or set 'kind: flat'",
    )


def agrees_with_brute_force(audit: Audit) -> CheckResult:
    """The pairs of sampled items equal those of a brute-force product of all vectors."""
    return CheckResult(
        {
            "sampled": audit.sampled,
            "missing": audit.missing,
            "false": audit.false,
            "examples": list(audit.examples),
        },
        problem_of(
            f"materialize it again (in a sample of {audit.sampled}: {'; '.join(audit.examples)})",
            (audit.missing, "missing pair"),
            (audit.false, "false pair"),
        ),
    )


def at_or_above_threshold(matches: pl.DataFrame, threshold: float) -> CheckResult:
    """No match has a similarity below the threshold, but those that a person decided."""
    below_threshold = matches.filter(~(pl.col("similarity") >= threshold))
    if "verdict" in matches.columns:  # tables of earlier versions have none
        below_threshold = below_threshold.filter(pl.col("verdict").ne_missing(MATCH))
    below = below_threshold.height
    return CheckResult(
        {"matches": matches.height, "below": below, "threshold": threshold},
        f"{counted(below, 'match', 'matches')} below the threshold; materialize it again"
        if below
        else "",
    )


def result_recall(commit: Commit) -> CheckResult:
    """An approximate result holds the declared fraction of the pairs of an exact one.

    It is measured on sampled items when the result is computed, and fails when the upper end of
    its 95 % interval is below the declared fraction. An exact result passes, and so does one of
    which nothing could be measured.
    """
    recall = recall_of(commit)
    if recall is None:
        return CheckResult({"recall": 1.0})
    if recall.value is None:
        return CheckResult({"recall": NOT_MEASURED, "sampled": recall.rows, "pairs": 0})
    minimum = commit.properties[MIN_RECALL]
    return CheckResult(
        {
            "recall": round(recall.value, 4),
            "min": minimum,
            "sampled": recall.rows,
            "pairs": recall.pairs,
            "found": recall.found,
        },
        ""
        if recall.reaches(minimum)
        else f"{recall.found} of {recall.pairs} exact pairs of a sample were found "
        f"({recall.value:.3f}), and min_recall is {minimum:g}; materialize it again, which trains "
        "its lists again, or set 'method: exact'",
    )


def similarity_drift(table: Table, newest: Commit, maximum: float) -> CheckResult:
    """Similarities are distributed as in the version before; see `similarity.audit.drift`.

    Another encoder, threshold, mode or k changes them intentionally: then nothing is compared. Nor
    is a version that cannot be read: a new one may just have replaced it.
    """
    before = _version_before(table, newest)
    distance, compared_with = 0.0, "nothing"
    if before is not None and before.properties != newest.properties:
        compared_with = "nothing: settings changed"
    elif before is not None:
        try:
            similarities = table.read(before)["similarity"]
        except CorruptFileError:
            compared_with = f"nothing: version {before.version} is damaged"
        else:
            compared_with = f"version {before.version}"
            distance = drift(similarities, table.read(newest)["similarity"])
    return CheckResult(
        {"drift": round(distance, 4), "max": maximum, "compared_with": compared_with},
        ""
        if distance <= maximum
        else f"the cumulative fractions of similarities differ from those of {compared_with} by "
        f"{distance:.2%}, more than the {maximum:.2%} of max_drift; look at what is new, and raise "
        "max_drift if it is as it should be",
    )


def threshold_calibrated(evaluation: EncoderEvaluation, budget: float) -> CheckResult:
    """The catalog is large enough to measure a threshold for a budget of false matches.

    `budget` is the accepted fraction of items with a false best match.
    """
    return CheckResult(
        {
            "threshold": evaluation.threshold,
            "items": evaluation.items,
            "false_best_matches": round(evaluation.false_best_matches, 4),
            "budget": budget,
        },
        "" if evaluation.is_measured else f"{evaluation.source}; more items measure it",
    )


def _version_before(table: Table, newest: Commit) -> Commit | None:
    if newest.version == 1:
        return None
    try:
        return table.at(newest.version - 1)
    except StoreError:
        return None  # retention has deleted it
