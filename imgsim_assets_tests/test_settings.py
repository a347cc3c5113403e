from __future__ import annotations

import pytest
from pydantic import ValidationError

from imgsim_assets.settings import Settings


class Shelf(Settings):
    height: int = 3
    color: str = "red"


class Room(Settings):
    shelf: Shelf = Shelf()
    floor: int = 0


def test_an_unknown_key_is_named_with_the_key_that_was_meant() -> None:
    with pytest.raises(ValidationError, match=r"unknown key 'hieght': did you mean 'height'\?"):
        Shelf.model_validate({"hieght": 4})


def test_an_unknown_key_like_no_other_is_named_with_all_that_are_known() -> None:
    with pytest.raises(ValidationError) as refused:
        Shelf.model_validate({"xyzzy": 4})

    assert "unknown key 'xyzzy': known keys are height, color" in str(refused.value)
    assert "did you mean" not in str(refused.value)


def test_an_unknown_key_of_a_nested_setting_is_located() -> None:
    with pytest.raises(ValidationError) as refused:
        Room.model_validate({"shelf": {"colour": "blue"}})

    (error,) = refused.value.errors()
    assert error["loc"] == ("shelf",)
    assert "did you mean 'color'?" in error["msg"]


def test_a_key_that_yaml_read_as_something_else_than_text_is_named() -> None:
    with pytest.raises(ValidationError, match="unknown key 'True'"):
        Shelf.model_validate({True: 4})


def test_what_is_no_mapping_at_all_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"\['height', 4\] is not a mapping; write .*'height: "
    ):
        Shelf.model_validate(["height", 4])


def test_settings_that_were_validated_before_are_taken_as_they_are() -> None:
    shelf = Shelf(height=9)

    assert Room(shelf=shelf).shelf == shelf


def test_settings_cannot_be_changed_afterwards() -> None:
    shelf = Shelf()

    with pytest.raises(ValidationError, match="frozen"):
        shelf.height = 5  # type: ignore[misc]
    assert shelf.height == 3
