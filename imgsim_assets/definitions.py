"""The code location: everything that the YAML files under defs/ declare."""

from __future__ import annotations

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """All catalogs, match tables and schedules of this project."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
