from __future__ import annotations

import pytest
from pydantic import ValidationError, model_validator

from imgsim_assets.settings import Secret, Settings


class Shelf(Settings):
    height: int = 3
    color: str = "red"


class Room(Settings):
    shelf: Shelf = Shelf()
    floor: int = 0


def test_an_unknown_key_raises_with_a_suggestion() -> None:
    with pytest.raises(ValidationError, match=r"unknown key 'hieght': did you mean 'height'\?"):
        Shelf.model_validate({"hieght": 4})


def test_an_unknown_key_without_a_close_match_raises_with_all_keys() -> None:
    with pytest.raises(ValidationError) as raised:
        Shelf.model_validate({"xyzzy": 4})

    assert "unknown key 'xyzzy': known keys are height, color" in str(raised.value)
    assert "did you mean" not in str(raised.value)


def test_an_unknown_key_of_nested_settings_is_located() -> None:
    with pytest.raises(ValidationError) as raised:
        Room.model_validate({"shelf": {"colour": "blue"}})

    (error,) = raised.value.errors()
    assert error["loc"] == ("shelf", "colour")
    assert "did you mean 'color'?" in error["msg"]


def test_a_key_that_is_not_a_string_raises() -> None:
    with pytest.raises(ValidationError, match="unknown key 'True'"):
        Shelf.model_validate({True: 4})


def test_a_value_that_is_not_a_mapping_raises() -> None:
    with pytest.raises(
        ValidationError, match=r"\['height', 4\] is not a mapping; write .*'height: "
    ):
        Shelf.model_validate(["height", 4])


def test_validated_settings_are_accepted_as_they_are() -> None:
    shelf = Shelf(height=9)

    assert Room(shelf=shelf).shelf == shelf


def test_settings_are_immutable() -> None:
    shelf = Shelf()

    with pytest.raises(ValidationError, match="frozen"):
        shelf.height = 5  # type: ignore[misc]
    assert shelf.height == 3


class Safe(Settings):
    owner: str
    code: Secret | None = None
    shelf: Shelf = Shelf()

    @model_validator(mode="after")
    def _has_tall_shelf(self) -> Safe:
        if self.shelf.height > 5:
            raise ValueError("the shelf is too high")
        return self


@pytest.mark.parametrize(
    "values",
    [
        {"code": "s3cret"},
        {"owner": "me", "cod": "s3cret"},
        {"owner": "me", "code": ["s3cret"]},
        {"owner": "me", "code": {"value": "s3cret"}},
        {"owner": "me", "code": "s3cret", "shelf": {"height": 6}},
        {"owner": {"code": "s3cret"}},
    ],
)
def test_errors_never_contain_a_secret(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as raised:
        Safe.model_validate(values)

    assert "s3cret" not in str(raised.value) + repr(raised.value.errors())


def test_errors_show_values_that_are_no_secret() -> None:
    with pytest.raises(ValidationError, match="input_value='tall'"):
        Room.model_validate({"shelf": {"height": "tall"}})
