"""Finds damaged commits and files of a table, and repairs what needs no computation.

A damaged newest commit is restored from its copy, or replaced by the version before it. Other
damage is recorded: a commit whose `lost` names the damaged files follows, so that a later
inspection reports only what the newest version needs. Nothing else of the history changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from imgsim_assets.errors import CorruptFileError, FormatError, StoreError
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit, new_commit_id
from imgsim_assets.storage.commit_log import LATEST, commit_path
from imgsim_assets.storage.damage import BytesRead, Damage
from imgsim_assets.storage.gc import PER_IMAGE
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table_files import REBUILD

_REPAIR = "'imgsim verify --repair'"
# What to do about damaged rows of images that no run reads while nothing has changed.
_DROP = f"{_REPAIR} drops it, and then 'imgsim run' computes again what is needed of it"


def inspect_table(store: Store, name: str, read: BytesRead) -> list[Damage]:
    """Read every byte of a table, and compare it with the checksums.

    Args:
        store: The store.
        name: The table.
        read: Counts what was read.

    Raises:
        FormatError: Another version of imgsim_assets wrote the table.
    """
    return list(_Inspection(store, name).run(read))


class _Inspection:
    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._table = store.table(name)
        self._commits: dict[int, Commit] = {}
        self._unreadable: dict[int, CorruptFileError] = {}
        # Files that are recorded as lost, and damaged ones.
        self._known: set[str] = set()
        self._lost: list[str] = []

    def run(self, read: BytesRead) -> Iterator[Damage]:
        versions = self._table.versions()
        for version in versions:
            try:
                self._commits[version] = self._table.at(version)
            except CorruptFileError as error:
                self._unreadable[version] = error
            except FormatError:
                raise  # the same for every table
            except StoreError:
                continue  # garbage collection has deleted it
        read.versions += len(self._commits)
        newest = versions[-1] if versions else 0
        if newest in self._unreadable:
            yield Damage(self._name, str(self._unreadable[newest]), self._restore_newest)
        yield from self._inspect_copy(newest)
        self._known = {path for commit in self._commits.values() for path in commit.lost}
        yield from self._inspect_superseded_commits(newest)
        yield from self._inspect_files(newest, read)

    def _inspect_superseded_commits(self, newest: int) -> Iterator[Damage]:
        for version, error in self._unreadable.items():
            path = commit_path(self._name, version).removeprefix(f"{self._name}/")
            if version != newest and path not in self._known:
                what = str(error).split(";")[0]
                yield self._damage(
                    path, f"{what}; later versions are intact: {_REPAIR} records it as lost"
                )

    def _inspect_files(self, newest: int, read: BytesRead) -> Iterator[Damage]:
        seen: set[str] = set()
        for version in sorted(self._commits, reverse=True):
            for file in self._commits[version].files:
                if file.path in seen:
                    continue
                seen.add(file.path)
                read.files += 1
                read.bytes += file.bytes
                problem = self._problem(file)
                if problem and version == newest:
                    if self._commits[newest].properties.get(PER_IMAGE):
                        problem = problem.replace(REBUILD, _DROP)
                    yield self._damage(file.path, problem)
                elif problem and file.path not in self._known:
                    what = problem.split(";")[0]
                    yield self._damage(
                        file.path,
                        f"{what}; only version {version} and earlier ones list it: {_REPAIR} "
                        "records it as lost",
                    )

    def _damage(self, path: str, message: str) -> Damage:
        """Damage that is recorded: all of a table in one commit."""
        self._lost.append(path)
        return Damage(self._name, message, self._record)

    def _problem(self, file: DataFile) -> str:
        try:
            self._table.verify(file)
        except CorruptFileError as error:
            return str(error)
        entry = self._store.files.stat(f"{self._name}/{file.path}")
        if entry is None or entry.size != file.bytes:
            return f"{self._store.url}/{self._name}/{file.path} has another size than its commit"
        return ""

    # ---- commits ------------------------------------------------------------------------

    def _inspect_copy(self, newest: int) -> Iterator[Damage]:
        """Compare `_latest.json` with the commit of its number; an older copy is intact."""
        path = f"{self._name}/{LATEST}"
        try:
            data = self._store.files.read(path)
        except OSError:  # a folder, or none: the copy is optional
            return
        copy = _parsed(data)
        if copy is None:
            message = f"{self._store.url}/{path} is damaged; {_REPAIR} writes it again"
            yield Damage(self._name, message, self._rewrite_copy)
        elif copy.version > newest:
            message = (
                f"{self._store.url}/{commit_path(self._name, copy.version)} is missing; "
                f"{_REPAIR} restores it from {LATEST}"
            )
            yield Damage(self._name, message, lambda: self._restore(copy.version, data))
        elif copy.version in self._commits and self._commits[copy.version] != copy:
            message = f"{self._store.url}/{path} is no copy of a commit; {_REPAIR} writes it again"
            yield Damage(self._name, message, self._rewrite_copy)

    def _rewrite_copy(self) -> str:
        newest = self._table.latest()
        if newest is not None:
            self._store.files.write(f"{self._name}/{LATEST}", newest.to_json())
        return f"wrote {LATEST} again"

    def _restore_newest(self) -> str:
        newest = max(self._unreadable)
        try:
            data = self._store.files.read(f"{self._name}/{LATEST}")
        except OSError:
            data = b""
        copy = _parsed(data)
        if copy is not None and copy.version == newest:
            return self._restore(newest, data)
        if not self._commits:
            for version in self._unreadable:
                self._store.files.delete(commit_path(self._name, version))
            self._store.files.delete(f"{self._name}/{LATEST}")
            return "removed its damaged versions; no intact version is left"
        previous = self._commits[max(self._commits)]
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        rolled_back = replace(
            previous, version=newest, committed_at=now, commit_id=new_commit_id()
        ).to_json()
        self._restore(newest, rolled_back)
        self._store.files.write(f"{self._name}/{LATEST}", rolled_back)
        return f"version {newest} is now equal to version {previous.version}"

    def _restore(self, version: int, data: bytes) -> str:
        self._store.files.write(commit_path(self._name, version), data)
        return f"restored version {version} from {LATEST}"

    def _record(self) -> str:
        """Commit the newest version again, with damaged files recorded as lost."""
        paths = [path for path in self._lost if path not in self._known]
        newest = self._table.latest()
        if not paths or newest is None:
            return ""
        self._known.update(paths)

        def change(base: Commit | None) -> PendingCommit | None:
            if base is None:
                return None
            return PendingCommit(base.files, base.inputs, base.properties, [*base.lost, *paths])

        self._store.table(self._name, key=newest.key).commit(change)
        return f"recorded as lost: {', '.join(paths)}"


def _parsed(data: bytes) -> Commit | None:
    try:
        return Commit.from_json(data)
    except (FormatError, ValueError, KeyError, TypeError):
        return None
