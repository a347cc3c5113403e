from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.storage.sealed_json import CHECKSUM, is_sealed, seal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=20,
)
KEYS = st.text().filter(lambda key: key != CHECKSUM)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1))
def test_a_sealed_document_is_json_with_one_key_more(document: dict[str, object]) -> None:
    sealed = seal(document)

    assert is_sealed(sealed)
    values = json.loads(sealed)
    assert len(values.pop(CHECKSUM)) == 64
    assert values == document


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1), st.data())
def test_a_document_with_any_other_byte_is_not_sealed(
    document: dict[str, object], data: st.DataObject
) -> None:
    sealed = seal(document)
    position = data.draw(st.integers(0, len(sealed) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != sealed[position]))

    assert not is_sealed(sealed[:position] + bytes([byte]) + sealed[position + 1 :])
    assert not is_sealed(sealed[:position] + sealed[position + 1 :])
    assert not is_sealed(sealed[:position])
