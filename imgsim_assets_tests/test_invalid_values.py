"""Every message about an invalid value says what to write."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from imgsim_assets.settings import Settings


class Job(Settings):
    memory_mib: int = Field(512, ge=16)
    workers: int = Field(4, ge=1, le=64)
    recall: float = Field(0.9, ge=0, lt=1)
    timeout_s: float = Field(30, gt=0)
    limit: int | None = Field(None, ge=1, le=10)
    title: str = Field("x", min_length=1, max_length=3)
    kind: Literal["flat", "ivf"] = "flat"
    automatic: bool = True
    names: tuple[str, ...] = ()
    size: tuple[int, int] = (1, 1)
    tags: dict[str, str] = Field(default_factory=dict)
    code: str = Field("a", pattern="^[a-z]+$")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("memory_mib", "64MB", "'64MB' is not a whole number of MiB; write 64"),
        ("memory_mib", "2GB", "'2GB' is not a whole number of MiB; write a whole number of at "),
        ("memory_mib", "1MB", "'1MB' is not a whole number of MiB; write a whole number of at "),
        ("memory_mib", 8, "8 is too small; write a number of at least 16"),
        ("workers", 65, "65 is too large; write 1 to 64"),
        ("workers", 2.6, "2.6 is not a whole number; write 3"),
        ("workers", "many", "'many' is not a whole number; write 1 to 64"),
        ("workers", None, "None is not a whole number; write 1 to 64"),
        ("recall", 1.5, "1.5 is too large; write a number of at least 0 and less than 1"),
        ("recall", "90%", "'90%' is not a number; write a number of at least 0 and less than 1"),
        ("timeout_s", "30s", "'30s' is not a number of seconds; write 30"),
        ("timeout_s", 0, "0 is too small; write a number of more than 0"),
        ("limit", 11, "11 is too large; write 1 to 10"),
        ("title", 7, "7 is not text; write it in quotes: '7'"),
        ("title", ["a"], "a list is not text; write text"),
        ("title", "", "'' is too short; write at least 1 character"),
        ("title", "long", "'long' is too long; write at most 3 characters"),
        ("kind", "hnsw", "'hnsw' is not a choice; write 'flat' or 'ivf'"),
        ("automatic", "maybe", "'maybe' is neither true nor false; write one of them"),
        ("names", "a", "'a' is not a list; write one, such as [a]"),
        ("size", [1], "value 2 is missing; write it"),
        ("size", [1, 2, 3], "a list is too long; write 2 values"),
        ("tags", "a", "'a' is not a mapping; write one, such as {name: value}"),
        ("code", "A1", "'A1' is not of the form ^[a-z]+$; write text that is"),
    ],
)
def test_message_names_the_value_and_what_to_write(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Job.model_validate({key: value})

    (line,) = raised.value.errors()
    assert line["msg"].removeprefix("Value error, ").startswith(message)
    assert line["loc"][0] == key


class Shelf(Settings):
    job: Job
    owner: str


def test_values_of_inner_settings_and_missing_keys_are_explained() -> None:
    with pytest.raises(ValidationError) as raised:
        Shelf.model_validate({"job": {"workers": "many"}})

    assert [
        (line["loc"], line["msg"].removeprefix("Value error, ")) for line in raised.value.errors()
    ] == [
        (("job", "workers"), "'many' is not a whole number; write 1 to 64"),
        (("owner",), "the key is missing; write 'owner: ...'"),
    ]
