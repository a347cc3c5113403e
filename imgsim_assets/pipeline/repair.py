"""Repair of a store: everything that can be done without fetching or computing."""

from __future__ import annotations

from dataclasses import dataclass

from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.encoders import vector_files
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import ImgsimError
from imgsim_assets.pipeline.status import catalog_names
from imgsim_assets.pipeline.verify import find_damage, missing_images
from imgsim_assets.progress import Log, silent
from imgsim_assets.reviews import table as reviews
from imgsim_assets.storage.damage import BytesRead
from imgsim_assets.storage.gc import PER_IMAGE
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

_VECTORS = "/vectors/"


@dataclass(frozen=True)
class Repair:
    """What was done about a table or file."""

    location: str
    action: str


def repair(store: Store, *, log: Log = silent) -> list[Repair]:
    """Repair a store as far as possible without fetching or computing.

    Damaged newest commits are restored from their copies, or replaced by the version before.
    Intact images of damaged packs move to new packs. Damaged index files are deleted. Damaged
    vectors, features, thumbnails and decisions are dropped; of decisions, those that earlier
    versions have are restored. Images that are in no pack are reported missing, so that the next
    run fetches them again. Damaged files of other tables are recorded, and rebuilt by the next run.

    Args:
        store: the store.
        log: receives progress messages.

    Returns:
        What was done. `verify` lists what is left to do.

    Raises:
        FormatError: when another version of imgsim_assets wrote the store.
    """
    damages = list(find_damage(store, BytesRead(), log))
    done = [Repair(damage.location, action) for damage in damages if (action := damage.repair())]
    # Another object: this one remembers the packs and index files as they were.
    repaired = Store(store.files)
    locations = {damage.location for damage in damages}
    for name in filter(locations.__contains__, repaired.table_names()):
        dropped = _drop_damaged(repaired, name)
        done += [Repair(name, f"dropped {counted(dropped, 'file')}")] * bool(dropped)
    return [*done, *_report_missing(repaired)]


def _drop_damaged(store: Store, name: str) -> int:
    """Drop the damaged files of a table whose rows no run computes again while they are listed."""
    catalog, is_vectors, fingerprint = name.partition(_VECTORS)
    if is_vectors:
        return VectorTable(store, catalog, fingerprint).drop_damaged()
    table = store.table(name)
    newest = table.latest()
    if newest is None:
        return 0
    if name.startswith(f"{reviews.REVIEWS}/"):
        return reviews.drop_damaged(table)
    if newest.properties.get(PER_IMAGE):
        return vector_files.drop_damaged(store.table(name, key=newest.key), newest)
    return 0


def _report_missing(store: Store) -> list[Repair]:
    done = []
    for name in catalog_names(store):
        try:
            missing = missing_images(store, name)
        except ImgsimError:
            continue  # the ledger is damaged, which verify lists
        known = store.blobs.missing()
        images = sorted(set(missing["sha256"]) - known)
        for sha256 in images:
            store.blobs.report_missing(sha256)
        if images:
            action = f"marked {counted(len(images), 'image')}, which the next run fetches again"
            done.append(Repair(ledger_table(store, name).name, action))
    return done
