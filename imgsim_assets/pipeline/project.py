"""The download settings that a project's YAML declares for a catalog.

The files are read without Dagster and without running the project's code, so that a command may
look into the project of its working directory. Only `env` is known in their templates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import SettingsError, StoreError
from imgsim_assets.invalid_values import message_of
from imgsim_assets.storage.project import Templates, yaml_documents
from imgsim_assets.storage.store import Store


@dataclass(frozen=True)
class DeclaredDownload:
    """The download settings of a catalog, and the file that declares it."""

    settings: DownloadSettings
    file: Path


def declared_download(
    root: Path, name: str, store: Store, *, given: Collection[str] = ()
) -> DeclaredDownload | None:
    """The download settings that the project at `root` declares for a catalog of its store.

    Args:
        root: the root of the project.
        name: the catalog.
        store: where the catalog is.
        given: keys whose templates need not be known, because the caller has other values.

    Returns:
        None if no YAML file declares the catalog, or if `store` is not the project's: another
        store may have a catalog of the same name, whose hosts must not get this one's headers.

    Raises:
        SettingsError: a file is not YAML, or the settings are not valid.
    """
    if not _is_store_of(root, store):
        return None
    for file, document in yaml_documents(root):
        attributes = document.get("attributes")
        if not isinstance(attributes, Mapping):
            continue
        if attributes.get("name") == name and "source" in attributes:
            values = dict(_resolved_items(Templates(root, file), attributes, given))
            return DeclaredDownload(_settings(file, values).with_absolute_ca_file(root), file)
    return None


def _is_store_of(root: Path, store: Store) -> bool:
    try:
        return store.url == Store.open(project_root=root).url
    except StoreError:  # Python declares the project's store, and is not run here
        return False


def _resolved_items(
    templates: Templates, attributes: Mapping[str, Any], given: Collection[str]
) -> Iterator[tuple[str, Any]]:
    for key, value in (attributes.get("download") or {}).items():
        try:
            yield key, templates.resolved(value)
        except SettingsError:
            if key not in given:
                raise


def _settings(file: Path, values: Any) -> DownloadSettings:
    try:
        return DownloadSettings.model_validate(values)
    except ValidationError as error:
        line = error.errors(include_url=False)[0]
        key = ".".join(["attributes", "download", *map(str, line["loc"])])
        problem = message_of(line)
        raise SettingsError(f"{file}: {key}: {problem}") from None
