"""What the assets of a project share: where it lies, and the store its runs write to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from imgsim_assets.components.tables import TableIOManager

if TYPE_CHECKING:
    from imgsim_assets.storage.store import Store


@dataclass(frozen=True)
class Project:
    """A Dagster project that declares catalogs."""

    root: Path

    def store(self, run_id: str | None = None) -> Store:
        """The project's store (IMGSIM_STORE, else data/store under the root)."""
        from imgsim_assets.storage.store import Store

        return Store.open(project_root=self.root, run_id=run_id)


@lru_cache(maxsize=8)
def tables_of(root: Path) -> TableIOManager:
    """The IO manager of a project; always the same object, so that definitions can merge."""
    return TableIOManager(project_root=str(root))
