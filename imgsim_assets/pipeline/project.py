"""The download settings that a project's YAML declares for a catalog.

The files are read without Dagster and without running the project's code, so that a command may
look into the project of its working directory. Only `env` is known in their templates.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import SettingsError
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
    documents = list(_documents(root))
    if store.url != _store_url(root, documents):
        return None
    for file, document in documents:
        attributes = document["attributes"]
        if attributes.get("name") == name and "source" in attributes:
            values = dict(_resolved_items(_Templates(root, file), attributes, given))
            return DeclaredDownload(_settings(file, values).with_absolute_ca_file(root), file)
    return None


def defs_folder(root: Path) -> Path | None:
    """The folder of a Dagster project that holds its YAML files."""
    for name in ("pyproject.toml", "dg.toml"):
        path = root / name
        if not path.is_file():
            continue
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        project = document.get("tool", {}).get("dg", document).get("project", {})
        module = str(project.get("root_module", ""))
        for base in (root / "src", root):
            if module and (base / module).is_dir():
                return base / module / "defs"
    return None


def _documents(root: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The documents with attributes of a project's YAML files."""
    import yaml

    folder = defs_folder(root)
    for path in sorted(folder.rglob("*.y*ml")) if folder is not None else ():
        try:
            documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        except yaml.MarkedYAMLError as error:
            # Without the error's own text, which shows lines of the file.
            line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
            raise SettingsError(f"{path}:{line}: not YAML: {error.problem}") from None
        for document in documents:
            attributes = document.get("attributes") if isinstance(document, Mapping) else None
            if isinstance(attributes, Mapping):
                yield path, document


def _store_url(root: Path, documents: list[tuple[Path, Mapping[str, Any]]]) -> str:
    for file, document in documents:
        if str(document.get("type", "")).endswith(".StoreComponent"):
            url = _Templates(root, file).resolved(document["attributes"].get("url"))
            return Store.open(url, project_root=root).url
    return Store.open(project_root=root).url


def _resolved_items(
    templates: _Templates, attributes: Mapping[str, Any], given: Collection[str]
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
        problem = line["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{file}: {key}: {problem}") from None


class _Templates:
    """The templates of a file, with the environment and the `.env` file of its project."""

    def __init__(self, root: Path, file: Path) -> None:
        self._root = root
        self._file = file

    def resolved(self, value: Any) -> Any:
        """A value with its templates resolved."""
        if isinstance(value, Mapping):
            return {key: self.resolved(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.resolved(inner) for inner in value]
        return self._text(value) if isinstance(value, str) and "{{" in value else value

    def _text(self, template: str) -> str:
        import jinja2
        from dotenv import dotenv_values
        from jinja2.sandbox import SandboxedEnvironment

        variables = {**dotenv_values(self._root / ".env"), **os.environ}
        sandbox = SandboxedEnvironment(undefined=jinja2.StrictUndefined)
        try:
            return sandbox.from_string(template).render(env=_Environment(variables))
        except (jinja2.TemplateError, LookupError) as error:
            raise SettingsError(
                f"{self._file}: the template {template!r} cannot be resolved here: "
                f"{error.args[0]}; give the setting as an option"
            ) from None


class _Environment:
    """`env` of Dagster's templates: `env.NAME` and `env('NAME', 'default')`."""

    # Read by the sandbox; without them they would be names of variables.
    unsafe_callable = False
    alters_data = False

    def __init__(self, variables: Mapping[str, str | None]) -> None:
        self._variables = variables

    def __getattr__(self, name: str) -> str:
        if name.startswith(("_", "jinja")):
            raise AttributeError(name)
        return self(name)

    def __call__(self, name: str, default: str | None = None) -> str:
        value = self._variables.get(name)
        value = default if value is None else value
        if value is None:
            raise LookupError(f"the environment variable {name} is not set")
        return value
