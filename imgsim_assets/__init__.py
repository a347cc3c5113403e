"""Image similarity as Dagster assets: catalogues, downloads, embeddings, indexes, matches.

Names are loaded when they are first used, so that importing the package, or the parts of it
that do not need Dagster, stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgsim_assets.lazy import loading

if TYPE_CHECKING:
    from imgsim_assets.components.duplicate_groups import DuplicateGroups
    from imgsim_assets.components.garbage_collection import GarbageCollection
    from imgsim_assets.components.image_catalogue import ImageCatalogue
    from imgsim_assets.components.match_matrix import MatchMatrix
    from imgsim_assets.components.tables import (
        TableIOManager,
        match_input,
        match_spec,
        table_input,
    )
    from imgsim_assets.model.features import extract_features, set_num_gpus
    from imgsim_assets.model.gallery import explore, show
    from imgsim_assets.model.images import load_images
    from imgsim_assets.model.model import ImageSimilarityModel, load_model
    from imgsim_assets.storage.changes import Changes, read_changes
    from imgsim_assets.storage.provenance import read_provenance
    from imgsim_assets.storage.reader import read_table

__all__ = [
    "Changes",
    "DuplicateGroups",
    "GarbageCollection",
    "ImageCatalogue",
    "ImageSimilarityModel",
    "MatchMatrix",
    "TableIOManager",
    "explore",
    "extract_features",
    "load_images",
    "load_model",
    "match_input",
    "match_spec",
    "read_changes",
    "read_provenance",
    "read_table",
    "set_num_gpus",
    "show",
    "table_input",
]

_HOMES = {
    "Changes": "storage.changes",
    "DuplicateGroups": "components.duplicate_groups",
    "GarbageCollection": "components.garbage_collection",
    "ImageCatalogue": "components.image_catalogue",
    "ImageSimilarityModel": "model.model",
    "MatchMatrix": "components.match_matrix",
    "TableIOManager": "components.tables",
    "explore": "model.gallery",
    "extract_features": "model.features",
    "load_images": "model.images",
    "load_model": "model.model",
    "match_input": "components.tables",
    "match_spec": "components.tables",
    "read_changes": "storage.changes",
    "read_provenance": "storage.provenance",
    "read_table": "storage.reader",
    "set_num_gpus": "model.features",
    "show": "model.gallery",
    "table_input": "components.tables",
}

__getattr__ = loading(__name__, _HOMES)


def __dir__() -> list[str]:
    """What Dagster looks through for components, loading all of it: so, only its own part."""
    of_dagster = (name for name, home in _HOMES.items() if home.startswith("components."))
    return sorted({*globals(), *of_dagster})
