"""The numbered commits of a table, and how the newest is found in few requests.

<table>/_commits/000000000042.json   one commit, written put-if-absent
<table>/_latest.json                 a copy of the newest commit, or of a recent one
"""

from __future__ import annotations

import contextlib
import re
from typing import NamedTuple

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.files import Files

COMMITS = "_commits"
LATEST = "_latest.json"
_COMMIT_NAME = re.compile(r"\d{12}\.json")
# So many commits after the copy are read one by one; then a listing is cheaper.
_MAX_STEPS = 8


def commit_path(table: str, version: int) -> str:
    """Where the commit of a version is, relative to the store."""
    return f"{table}/{COMMITS}/{version:012d}.json"


class CommitStamp(NamedTuple):
    """What tells the file of a commit from another of its number, after a table was deleted."""

    version: int
    size: int
    modified: float


class CommitLog:
    """The commits of one table.

    Args:
        files: The root that holds the table's folder.
        table: Name of the table.
    """

    def __init__(self, files: Files, table: str) -> None:
        self._files = files
        self._table = table

    def versions(self) -> list[int]:
        """The numbers of the commits that garbage collection has not deleted, ascending."""
        names = (entry.name for entry in self._files.entries(f"{self._table}/{COMMITS}"))
        return sorted(int(name[:12]) for name in names if _COMMIT_NAME.fullmatch(name))

    def newest_stamp(self) -> CommitStamp | None:
        """What changes with the newest commit, in one request; None for a table without commits."""
        entries = self._files.entries(f"{self._table}/{COMMITS}")
        stamps = [
            CommitStamp(int(entry.name[:12]), entry.size, entry.modified)
            for entry in entries
            if _COMMIT_NAME.fullmatch(entry.name)
        ]
        return max(stamps, default=None)

    def latest(self) -> Commit | None:
        """The newest commit, or None for a table without commits.

        Three requests, however many commits there are: the copy, whose number is usually that of
        the newest commit, that commit, and its successor, which does not exist. Each commit since
        the copy is one request more. The copy itself is never believed.
        """
        copied = self._copied_version()
        if copied is not None:
            with contextlib.suppress(FileNotFoundError, CorruptFileError):
                return self.newest_after(self.read(copied))
        return self._latest_listed()

    def newest_after(self, commit: Commit) -> Commit:
        """The newest commit, given one that was the newest some time ago.

        Raises:
            CorruptFileError: A later commit is damaged.
        """
        for _ in range(_MAX_STEPS):
            try:
                commit = self.read(commit.version + 1)
            except FileNotFoundError:
                return commit
        return self._latest_listed() or commit

    def _latest_listed(self) -> Commit | None:
        while versions := self.versions():
            # Garbage collection may delete a commit after the listing, but never the newest.
            with contextlib.suppress(FileNotFoundError):
                return self.read(versions[-1])
        return None

    def _copied_version(self) -> int | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return Commit.from_json(self._files.read(f"{self._table}/{LATEST}")).version
        return None

    def read(self, version: int) -> Commit:
        """One commit by number.

        Raises:
            FileNotFoundError: There is no such commit (any more).
            CorruptFileError: The commit is damaged.
        """
        path = commit_path(self._table, version)
        data = self._files.read(path)
        try:
            commit = Commit.from_json(data)
            if commit.version != version:
                raise ValueError(f"it is a copy of commit {commit.version}")
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFileError(
                f"{self._files.url}/{path} is not a commit ({error}); 'imgsim verify --repair' "
                "restores it or goes back to the previous version"
            ) from error
        return commit

    def create(self, commit: Commit) -> Commit | None:
        """Write a commit unless its number is taken.

        Returns:
            None if the commit was written, else the commit of another writer that has the number.

        Raises:
            FileExistsError: Another writer is about to take the number.
        """
        try:
            self._files.create(commit_path(self._table, commit.version), commit.to_json())
        except FileExistsError:
            # Another writer took the number, or this one did in an earlier attempt whose response
            # never arrived.
            with contextlib.suppress(FileNotFoundError):
                taken = self.read(commit.version)
                return taken if taken.commit_id != commit.commit_id else None
            raise
        return None

    def copy(self, commit: Commit) -> None:
        """Copy a commit to _latest.json. The commit is valid whether or not that succeeds."""
        with contextlib.suppress(Exception):  # clients of object stores raise their own errors
            self._files.write(f"{self._table}/{LATEST}", commit.to_json())
            # This write may have replaced the copy of a newer commit.
            if self._files.stat(commit_path(self._table, commit.version + 1)) is not None:
                newest = self.newest_after(commit)
                newer = self._files.read(commit_path(self._table, newest.version))
                self._files.write(f"{self._table}/{LATEST}", newer)
