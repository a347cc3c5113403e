"""The argument of commands that read a catalog of the store."""

from __future__ import annotations

import click

from imgsim_assets.pipeline.status import catalog_names
from imgsim_assets.storage.store import Store


def require_catalogs(store: Store, *names: str) -> None:
    """Check that the store has catalogs.

    Raises:
        click.UsageError: it has not; the message lists those that it has.
    """
    existing = catalog_names(store)
    for name in names:
        if name not in existing:
            listed = ", ".join(existing) or "none"
            raise click.UsageError(
                f"{store.url} has no catalog {name!r}; it has {listed}. A declared catalog is "
                "there after its first run"
            )
