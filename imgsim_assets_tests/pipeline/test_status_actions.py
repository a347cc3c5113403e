"""What a page advises about a status is what docs/statuses.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imgsim_assets.download.status import DEPENDS_ON_SETTINGS, RETRYABLE
from imgsim_assets.pipeline.failures import EMBEDDINGS, IMAGES, SOURCE
from imgsim_assets.pipeline.status_actions import ACTIONS, action_for

_PAGE = Path(__file__).parents[2] / "docs" / "statuses.md"
_SECTIONS = {IMAGES: "Images", EMBEDDINGS: "Embeddings", SOURCE: "Rejected rows"}


def _documented(stage: str) -> dict[str, str]:
    """The last column of a section's table, by the statuses of the first one."""
    section = _PAGE.read_text().split(f"## {_SECTIONS[stage]}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {
        status: re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", cells[-1]).strip()
        for cells in rows
        for status in re.findall(r"`(\w+)`", cells[0])
        if status != "ok"
    }


@pytest.mark.parametrize("stage", [IMAGES, EMBEDDINGS, SOURCE])
def test_actions_are_those_of_the_documentation(stage: str) -> None:
    assert dict(ACTIONS[stage]) == _documented(stage)


@pytest.mark.parametrize(
    "status", sorted(RETRYABLE | DEPENDS_ON_SETTINGS | {"http_502", "http_410"})
)
def test_every_status_of_a_download_has_an_action(status: str) -> None:
    assert action_for(IMAGES, status)


def test_decoding_for_the_encoder_may_fail_as_a_download_does() -> None:
    assert action_for(EMBEDDINGS, "not_image") == "fix the URL"
    assert action_for(EMBEDDINGS, "truncated") == "replace the image"


def test_unknown_status_has_no_action() -> None:
    assert action_for(EMBEDDINGS, "of_another_version") is None
