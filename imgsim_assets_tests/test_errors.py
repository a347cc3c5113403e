from __future__ import annotations

import errno
import os
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.errors import SettingsError, SourceError, describe_error, in_home


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "mount the disk writable"),
        (errno.EACCES, "give this user access"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOTCONN, "run it again"),
    ],
)
def test_message_of_a_system_error_names_file_and_fix(number: int, fix: str) -> None:
    message = describe_error(OSError(number, os.strerror(number), "/store/a"))

    assert message is not None
    assert message.startswith(f"{os.strerror(number)}: /store/a; ")
    assert fix in message
    assert "\n" not in message


def test_message_of_a_group_with_one_error_is_that_of_the_error() -> None:
    inner = OSError(errno.ENOSPC, "No space left on device")

    assert describe_error(ExceptionGroup("several", [inner])) == describe_error(inner)


def test_message_of_an_own_error_is_its_text() -> None:
    assert describe_error(SourceError("list.csv is missing")) == "list.csv is missing"


def test_message_of_a_system_error_that_polars_reports(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("the system has no /dev/full")
    with pytest.raises(Exception, match="os error 28") as raised:
        pl.LazyFrame({"a": range(100_000)}).sink_csv(full)

    message = describe_error(raised.value)

    assert message is not None
    assert message.startswith("No space left on device")
    assert "free some space" in message


def test_a_home_that_nothing_knows_is_named_with_the_fix() -> None:
    with pytest.raises(SettingsError, match=r"~nobody99/store: .*; write the whole path, or \./"):
        in_home("~nobody99/store")
    assert in_home("~/store") == Path.home() / "store"


def test_error_of_the_code_has_no_message() -> None:
    assert describe_error(KeyError("id")) is None
