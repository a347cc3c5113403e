"""docs/settings.md is what the settings classes say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

_ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    path = _ROOT / "docs/hooks/settings_reference.py"
    spec = importlib.util.spec_from_file_location("settings_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_page_is_current(reference: ModuleType) -> None:
    page = (_ROOT / "docs/settings.md").read_text()

    assert page == reference.render(), "run 'make reference'"


def test_settings_page_has_a_row_with_a_meaning_for_every_key(reference: ModuleType) -> None:
    rows = [line for line in reference.render().splitlines() if line.startswith("| `")]
    without_meaning = [row for row in rows if row.endswith("|  |")]

    assert len(rows) > 80
    assert without_meaning == []


def test_settings_page_gives_limits_defaults_and_choices(reference: ModuleType) -> None:
    text = reference.render()

    assert "| `shards` | integer ≥ 1, ≤ 4,096 | 4 |" in text
    assert "| `mode` | `all`, `best`, `top_k`, `mutual`, `one_to_one` | `best` |" in text
    assert "| `name` | text | required |" in text
