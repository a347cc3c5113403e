"""Image similarity as Dagster assets: catalogs, downloads, embeddings, indexes, matches.

Names are loaded when they are first used, and their modules import heavy libraries (torch, Polars,
NumPy) inside functions: importing the package and listing its names is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgsim_assets.errors import SettingsError
from imgsim_assets.lazy import lazy_getattr

if TYPE_CHECKING:
    from imgsim_assets.catalog.settings import SourceSettings
    from imgsim_assets.components.automation_sensor.component import AutomationComponent
    from imgsim_assets.components.duplicate_groups.component import DuplicateGroupsComponent
    from imgsim_assets.components.image_catalog.component import ImageCatalogComponent
    from imgsim_assets.components.match_matrix.component import MatchMatrixComponent
    from imgsim_assets.components.retention.component import RetentionComponent
    from imgsim_assets.components.store.component import StoreComponent
    from imgsim_assets.components.store.resource import StoreResource
    from imgsim_assets.components.tables import (
        TableIOManager,
        match_input,
        match_spec,
        table_input,
        table_spec,
    )
    from imgsim_assets.compute.settings import ComputeSettings
    from imgsim_assets.download.settings import DownloadSettings
    from imgsim_assets.encoders.settings import EncoderSettings, EvaluationSettings
    from imgsim_assets.index.settings import IndexSettings
    from imgsim_assets.pipeline.settings import (
        AutomationSettings,
        CatalogSettings,
        CheckSettings,
        DuplicateGroupsSettings,
        MatchMatrixSettings,
        RetentionSettings,
        StoreSettings,
    )
    from imgsim_assets.search.features import extract_features
    from imgsim_assets.search.gallery import explore, show
    from imgsim_assets.search.load_images import load_images
    from imgsim_assets.search.load_model import load_model
    from imgsim_assets.search.model import ImageSimilarityModel
    from imgsim_assets.search.num_gpus import set_num_gpus
    from imgsim_assets.similarity.settings import GraphSettings, GroupSettings
    from imgsim_assets.storage.changes import Changes, read_changes
    from imgsim_assets.storage.provenance import read_provenance
    from imgsim_assets.storage.reader import read_table

__version__ = "0.1.0"

__all__ = [
    "AutomationComponent",
    "AutomationSettings",
    "CatalogSettings",
    "Changes",
    "CheckSettings",
    "ComputeSettings",
    "DownloadSettings",
    "DuplicateGroupsComponent",
    "DuplicateGroupsSettings",
    "EncoderSettings",
    "EvaluationSettings",
    "GraphSettings",
    "GroupSettings",
    "ImageCatalogComponent",
    "ImageSimilarityModel",
    "IndexSettings",
    "MatchMatrixComponent",
    "MatchMatrixSettings",
    "RetentionComponent",
    "RetentionSettings",
    "SourceSettings",
    "StoreComponent",
    "StoreResource",
    "StoreSettings",
    "TableIOManager",
    "__version__",
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
    "table_spec",
]

# Component types of earlier snapshots, for an error that names the present type.
_RENAMED = {
    "DuplicateGroups": "DuplicateGroupsComponent",
    "GarbageCollection": "RetentionComponent",
    "ImageCatalogue": "ImageCatalogComponent",
    "MatchMatrix": "MatchMatrixComponent",
}

_load = lazy_getattr(
    __name__,
    {
        "AutomationComponent": "components.automation_sensor.component",
        "AutomationSettings": "pipeline.settings",
        "CatalogSettings": "pipeline.settings",
        "Changes": "storage.changes",
        "CheckSettings": "pipeline.settings",
        "ComputeSettings": "compute.settings",
        "DownloadSettings": "download.settings",
        "DuplicateGroupsComponent": "components.duplicate_groups.component",
        "DuplicateGroupsSettings": "pipeline.settings",
        "EncoderSettings": "encoders.settings",
        "EvaluationSettings": "encoders.settings",
        "GraphSettings": "similarity.settings",
        "GroupSettings": "similarity.settings",
        "ImageCatalogComponent": "components.image_catalog.component",
        "ImageSimilarityModel": "search.model",
        "IndexSettings": "index.settings",
        "MatchMatrixComponent": "components.match_matrix.component",
        "MatchMatrixSettings": "pipeline.settings",
        "RetentionComponent": "components.retention.component",
        "RetentionSettings": "pipeline.settings",
        "SourceSettings": "catalog.settings",
        "StoreComponent": "components.store.component",
        "StoreResource": "components.store.resource",
        "StoreSettings": "pipeline.settings",
        "TableIOManager": "components.tables",
        "explore": "search.gallery",
        "extract_features": "search.features",
        "load_images": "search.load_images",
        "load_model": "search.load_model",
        "match_input": "components.tables",
        "match_spec": "components.tables",
        "read_changes": "storage.changes",
        "read_provenance": "storage.provenance",
        "read_table": "storage.reader",
        "set_num_gpus": "search.num_gpus",
        "show": "search.gallery",
        "table_input": "components.tables",
        "table_spec": "components.tables",
    },
)


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        # Not an AttributeError: Dagster would replace it with a message without the new name.
        raise SettingsError(
            f"type: {__name__}.{name} is now {__name__}.{_RENAMED[name]}; change the type in the "
            "YAML file"
        )
    return _load(name)


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext imgsim_assets`: show match tables and results of queries with their images."""
    from imgsim_assets.search.notebook import show_frames

    show_frames(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """`%unload_ext imgsim_assets`: show all frames as Polars does."""
    from imgsim_assets.search.notebook import hide_frames

    hide_frames(ipython)


def __dir__() -> list[str]:
    """The public API, which tab completion lists and Dagster searches for components."""
    return sorted({*globals(), *__all__})
