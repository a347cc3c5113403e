"""docs/settings.md is what the settings classes say, docs/statuses.md what the code writes."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from imgsim_assets.catalog.validation import _DETAILS
from imgsim_assets.download.status import DEPENDS_ON_SETTINGS, RETRYABLE

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


# Calls whose first or second argument is a status.
_CALLS = {"FetchError", "ImageError", "failed_image", "truncated", "too_complex"}
_NAME = re.compile(r"[a-z]+(_[a-z0-9]+)*")
_CONSTANTS = {
    "BLANK",
    "TOO_SMALL",
    "OK",
    "NOT_IMAGE",
    "SKIPPED_HOST",
    "LOST_IMAGE",
    "PREPROCESS_ERROR",
}
# Words of a query in a notebook, which no table has.
_NOT_IN_TABLES = {"no_vector"}


def _statuses_in_code() -> set[str]:
    statuses = set(_DETAILS) | RETRYABLE | DEPENDS_ON_SETTINGS
    for path in (_ROOT / "imgsim_assets").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in _CALLS:
                    values = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant)]
                    statuses |= {str(v) for v in values if _NAME.fullmatch(str(v))}
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = {getattr(target, "id", "") for target in targets}
                if names & _CONSTANTS and isinstance(node.value, ast.Constant):
                    statuses.add(str(node.value.value))
    return statuses - _NOT_IN_TABLES


def _documented_statuses() -> dict[str, str]:
    """By status, its row of docs/statuses.md."""
    rows = (_ROOT / "docs/statuses.md").read_text().splitlines()
    table = [row for row in rows if row.startswith("| `")]
    return {name: row for row in table for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}


def test_statuses_page_has_every_status_of_the_code() -> None:
    in_code, documented = _statuses_in_code(), _documented_statuses()

    assert len(in_code) > 30
    assert {name for name in in_code if not name.startswith("http_")} - set(documented) == set()


def test_statuses_page_has_a_cause_and_a_fix_for_each_and_names_none_that_is_gone() -> None:
    text = "".join(path.read_text() for path in (_ROOT / "imgsim_assets").rglob("*.py"))
    documented = _documented_statuses()

    assert [row for row in documented.values() if "|  |" in row and "`ok`" not in row] == []
    assert [n for n in documented if f'"{n}"' not in text and not n.startswith("http_")] == []


def test_statuses_page_says_which_failures_are_retryable() -> None:
    documented = _documented_statuses()
    retryable = {name for name in RETRYABLE if not name.startswith("http_5")}

    assert [name for name in retryable if "| retryable |" not in documented[name]] == []
    permanent = DEPENDS_ON_SETTINGS - retryable
    assert [name for name in permanent if "settings" not in documented[name]] == []
