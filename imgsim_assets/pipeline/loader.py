"""A loader in place of the download: the user's function from a row to its image."""

from __future__ import annotations

import importlib
import io
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
from PIL import Image

from imgsim_assets.catalog.image_rows import OTHER_URLS, image_rows
from imgsim_assets.catalog.stage import items_table
from imgsim_assets.download.ledger.packs import (
    PackCheck,
    check_packs,
    named_packs,
    packs_metadata,
)
from imgsim_assets.download.ledger.table import (
    IMAGE_KEY,
    PROPERTIES,
    ROW_KEY,
    data_version,
    empty_ledger,
    ledger_frame,
    ledger_table,
    utc_now,
    with_all_columns,
)
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.stage import DownloadReport
from imgsim_assets.download.status import OK
from imgsim_assets.errors import SettingsError, StoreError
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.header import read_header
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.commit import Commit, PendingCommit, replace_shard
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.text import printable_line

# Property of a ledger that a loader has filled: its URLs may mean something to the loader only.
LOADED = "filled_by_loader"

# From a row (id, image, url and the carried columns) to the file's bytes, a PIL image, or None for
# no image. It is called from several threads at once.
Loader = Callable[[Mapping[str, Any]], bytes | Image.Image | None]


def find_loader(name: str) -> Loader:
    """The function that 'package.module:function' names.

    Raises:
        SettingsError: when there is no such function.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise SettingsError(f"loader: {name!r} is not of the form 'package.module:function'")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"loader: {name}: {error}; correct the name, or add its folder to PYTHONPATH"
        ) from error
    if not callable(function):
        raise SettingsError(f"loader: {name} is {type(function).__name__}; name a function")
    loader: Loader = function
    return loader


class LoaderStage:
    """Fills the ledger of a catalog by calling a loader for the images that it lacks.

    An image is loaded when it is new, when its bytes are missing, and in every run while it fails.
    `on_row` is called after each image.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        loader: Loader,
        settings: DownloadSettings,
        *,
        log: Log = silent,
        on_row: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._name = name
        self._loader = loader
        self._settings = settings
        self._log = log
        self._on_row = on_row
        self._table = ledger_table(store, name)

    def run(self, shard: Shard) -> DownloadReport:
        """Load the images that a shard lacks and commit its ledger; an exception is a status."""
        started = time.monotonic()
        catalog = items_table(self._store, self._name)
        source = catalog.latest()
        if source is None:
            raise StoreError(f"{self._name}/items has no version yet; ingest it first")
        items = catalog.read(source, shard=shard)
        images = image_rows(items)
        base = self._table.latest()
        loaded_before, packs = self._loaded_before(base, shard)
        kept = loaded_before.drop("image").join(images, on=IMAGE_KEY).select(loaded_before.columns)
        carried = items.drop("url", OTHER_URLS, strict=False)
        lacking = images.join(kept, on=IMAGE_KEY, how="anti")
        # A source may carry a column `image`: the number is apart.
        rows = lacking.drop("image").join(carried, on="id", how="left", maintain_order="left")
        due = list(zip(lacking["image"].to_list(), rows.to_dicts(), strict=True))
        loaded = self._load_all(due, shard)
        rows = pl.concat([kept, ledger_frame(loaded)]).sort(ROW_KEY)
        if (
            due
            or not rows.equals(loaded_before.sort(ROW_KEY))
            or packs.gone
            or base is None
            or not base.files_of_shard(shard)
        ):
            base = self._commit(rows, shard, source, packs)
        gone = loaded_before.join(images, on=ROW_KEY, how="anti")
        return DownloadReport(
            shard=shard.name,
            version=base.version,
            items=rows["id"].n_unique(),
            usable_items=rows.filter(pl.col("status") == OK)["id"].n_unique(),
            images=rows.height,
            requested=len(due),
            fetched=sum(row["status"] == OK for row in loaded),
            removed_items=gone.join(items, on="id", how="anti")["id"].n_unique(),
            removed_images=gone.height,
            bytes=sum(row.get("bytes") or 0 for row in loaded),
            seconds=time.monotonic() - started,
            statuses=dict(sorted(Counter(rows["status"].to_list()).items())),
            changed=bool(due),
            data_version=data_version(rows),
        )

    def _loaded_before(self, base: Commit | None, shard: Shard) -> tuple[pl.DataFrame, PackCheck]:
        """The shard's ledger rows with an image that the store still has, and its packs."""
        rows, packs = pl.DataFrame(), PackCheck()
        if base is not None:
            rows = self._table.read(base, shard=shard, on_corrupt=self._log)
        if base is None or not rows.width:
            return empty_ledger(), packs
        packs = check_packs(self._store.blobs, base.row_files_for_shard(shard), rows)
        missing = list(self._store.blobs.missing() | packs.lost)
        kept = (pl.col("status") == OK) & ~pl.col("sha256").is_in(missing)
        return with_all_columns(rows.filter(kept)), packs

    def _load_all(
        self, due: Sequence[tuple[int, Mapping[str, Any]]], shard: Shard
    ) -> list[dict[str, Any]]:
        workers = max(1, min(self._settings.concurrency, len(due)))
        label = f"{self._name} shard {shard.name}"
        loaded = []
        with (
            Progress(label, len(due), self._log) as progress,
            ThreadPoolExecutor(workers, "load") as pool,
        ):
            for row in pool.map(self._row, due):
                loaded.append(row)
                progress.advance(kind=row["status"])
                if self._on_row is not None:
                    self._on_row()
        return loaded

    def _row(self, due: tuple[int, Mapping[str, Any]]) -> dict[str, Any]:
        number, item = due
        row = {
            "id": item["id"],
            "image": number,
            "url": item["url"],
            "retryable": False,
            "fetched_at": utc_now(),
        }
        try:
            data = _file_bytes(self._loader({"image": number, **item}))
            header = read_header(data, self._settings.max_pixels)
        except ImageError as error:
            return {**row, "status": error.status, "detail": error.detail[:500], "attempts": 1}
        except Exception as error:
            # The user's code may raise anything; only its own row fails.
            detail = printable_line(f"{type(error).__name__}: {error}")
            return {**row, "status": "loader_error", "detail": detail, "attempts": 1}
        return {
            **row,
            "status": OK,
            "attempts": 0,
            "sha256": self._store.blobs.put(data),
            "bytes": len(data),
            "width": header.width,
            "height": header.height,
            "format": header.format,
        }

    def _commit(self, rows: pl.DataFrame, shard: Shard, source: Commit, packs: PackCheck) -> Commit:
        self._store.blobs.flush()
        file = self._table.write_rows(rows)

        def change(base: Commit | None) -> PendingCommit:
            base_version = base.inputs.get("items", 0) if base is not None else 0
            replaced = base.row_files_for_shard(shard) if base is not None else []
            existing = packs.remaining(named_packs(replaced))
            metadata = packs_metadata(self._store.blobs, rows, existing)
            return PendingCommit(
                replace_shard(base, shard, [file.with_metadata(**metadata)]),
                inputs={"items": max(source.version, base_version)},
                properties={**PROPERTIES, LOADED: True},
            )

        commit = self._table.commit(change)
        if commit is None:
            raise AssertionError("a shard that changed is committed")
        return commit


def _file_bytes(loaded: object) -> bytes:
    if loaded is None:
        raise ImageError("no_image", "the loader returned None")
    if isinstance(loaded, bytes):
        return loaded
    if isinstance(loaded, Image.Image):
        body = io.BytesIO()
        loaded.save(body, "PNG", compress_level=1)
        return body.getvalue()
    kind = type(loaded).__name__
    raise ImageError("no_image", f"the loader returned {kind}; return bytes or a PIL image")
