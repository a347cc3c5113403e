"""Settings of a store."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from imgsim_assets.settings import Settings


class RetentionPolicy(Settings):
    """What garbage collection keeps."""

    retain_last: int = Field(5, ge=1, description="number of newest versions kept of every table")
    min_age_hours: float = Field(
        168.0,
        ge=1.0,
        description="files younger than this are never deleted; must be longer than any run",
    )


class ExportSettings(Settings):
    """Where a table is exported to, beside the store."""

    delta: str = Field(
        description="folder of Delta tables, a path or a URL such as s3://bucket/delta; the table "
        "is <delta>/<name of the table>; needs the extra 'delta'"
    )

    def absolute(self, root: Path) -> str:
        """The folder, a relative path starting from `root`."""
        return self.delta if "://" in self.delta else str(root / self.delta)
