"""Whether assets are up to date, so that a local run can leave them out.

An asset is up to date if its newest materialization has the present code version (which contains
its settings) and was computed from the newest versions of its upstream assets. A catalog is up to
date if all its assets are, its source is as they read it, and no image is due.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import dagster as dg

from imgsim_assets.components.image_catalog.component import ImageCatalogComponent
from imgsim_assets.components.tables import table_name
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.shards import Shard

if TYPE_CHECKING:
    from imgsim_assets.storage.commit import Commit
    from imgsim_assets.storage.store import Store

_CODE_VERSION = "dagster/code_version"
_DATA_VERSION = "dagster/data_version"
_INPUT_VERSION = "dagster/input_data_version/"
_INPUT_EVENT = "dagster/input_event_pointer/"


class Sync:
    """Compares what Dagster has recorded and what the store has with what is declared."""

    def __init__(
        self, definitions: dg.Definitions, instance: dg.DagsterInstance, store: Store
    ) -> None:
        self._definitions = definitions
        self._instance = instance
        self._store = store
        self._graph = definitions.get_repository_def().asset_graph
        self._observed: dict[dg.AssetKey, str] = {}

    def take_observations(self, result: dg.ExecuteInProcessResult) -> None:
        """Keep the data versions of the sources that a run has observed."""
        for event in result.all_events:
            if event.event_type is dg.DagsterEventType.ASSET_OBSERVATION:
                observation = event.asset_observation_data.asset_observation
                if version := observation.data_version:
                    self._observed[observation.asset_key] = version

    def is_catalog_up_to_date(self, name: str, keys: Collection[dg.AssetKey]) -> bool:
        """Whether the refresh of a catalog would change nothing."""
        from imgsim_assets.catalog.stage import rejects_table

        try:
            rejects = rejects_table(self._store, name).latest()
            is_lost = rejects is not None and rejects.lists_lost_files
            return self._are_up_to_date(keys) and not is_lost and not self._is_download_due(name)
        except StoreError:
            return False  # the run fails with it, and no other catalog

    def _is_download_due(self, name: str) -> bool:
        from imgsim_assets.download.stage import ImagesStage

        tree = self._definitions.component_tree
        if tree is None:
            return True
        for component in tree.get_all_components(ImageCatalogComponent):
            settings = component.settings
            if settings.name == name:
                download = settings.download.with_absolute_ca_file(tree.project_root)
                stage = ImagesStage(self._store, name, download)
                return any(stage.is_due(shard) for shard in _shards(settings.shards))
        return True  # another component composes this one, and its settings are not at hand

    def is_up_to_date(self, key: dg.AssetKey) -> bool:
        """Whether an asset outside of the catalogs would be the same again."""
        try:
            return self._are_up_to_date([key])
        except StoreError:
            return False

    def _are_up_to_date(self, keys: Collection[dg.AssetKey]) -> bool:
        upstream = {dep for key in keys for dep in self._graph.get(key).parent_keys}
        events = self._newest_events({*keys, *upstream})
        return all(key in events and self._is_current(key, events) for key in keys)

    def _newest_events(self, keys: Collection[dg.AssetKey]) -> dict[dg.AssetKey, dg.EventLogRecord]:
        return {
            record.asset_entry.asset_key: record.asset_entry.last_materialization_record
            for record in self._instance.get_asset_records(list(keys))
            if record.asset_entry.last_materialization_record is not None
        }

    def _is_current(
        self, key: dg.AssetKey, events: Mapping[dg.AssetKey, dg.EventLogRecord]
    ) -> bool:
        asset = self._graph.get(key)
        tags = _tags(events[key])
        if asset.code_version is not None and tags.get(_CODE_VERSION) != asset.code_version:
            return False
        if not self._is_in_store(key, events[key]):
            return False
        return all(self._is_newest_input(dep, tags, events) for dep in asset.parent_keys)

    def _is_in_store(self, key: dg.AssetKey, event: dg.EventLogRecord) -> bool:
        """Whether the store has the version of the table that Dagster has recorded."""
        materialization = event.asset_materialization
        version = materialization.metadata.get("version") if materialization else None
        if version is None:
            return True  # not a table of this package
        commit = self._store.table(table_name(key, self._graph.get(key).metadata)).latest()
        if commit is None:
            return False
        if commit.lists_lost_files or not self._has_current_inputs(commit):
            return False
        # The shards of a run commit one after the other, and each records its own version.
        return self._graph.get(key).is_partitioned or commit.version == version.value

    def _has_current_inputs(self, commit: Commit) -> bool:
        """Whether a version is of the vectors and of the decisions that there are now, too."""
        from imgsim_assets.pipeline.freshness import has_current_decisions, has_current_vectors

        store = self._store
        return has_current_vectors(store, commit) and has_current_decisions(store, commit)

    def _is_newest_input(
        self,
        dep: dg.AssetKey,
        tags: Mapping[str, str],
        events: Mapping[dg.AssetKey, dg.EventLogRecord],
    ) -> bool:
        name = dep.to_user_string()
        used = tags.get(f"{_INPUT_VERSION}{name}")
        if dep not in events:
            return used is not None and used == self._observed.get(dep)
        if tags.get(f"{_INPUT_EVENT}{name}") == str(events[dep].storage_id):
            return True
        # The data versions of shards are combined by Dagster, those of other assets are as given.
        is_same = used == _tags(events[dep]).get(_DATA_VERSION)
        return is_same and not self._graph.get(dep).is_partitioned


def _shards(count: int) -> list[Shard]:
    return [Shard(index, count) for index in range(count)]


def _tags(event: dg.EventLogRecord) -> Mapping[str, str]:
    materialization = event.asset_materialization
    return (materialization.tags if materialization else None) or {}
