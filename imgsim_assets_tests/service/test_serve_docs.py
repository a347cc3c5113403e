"""The commands of docs/serve.md run as they are written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.cli.serve import command
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import MatchSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.processes import BUSY_S
from imgsim_assets_tests.support.served import Served

_PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
_COMMANDS = re.findall(r"^curl .*$", "".join(re.findall(r"```bash\n(.*?)```", _PAGE, re.S)), re.M)
_HOG = EncoderSettings(name="hog_color")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")
def test_examples_of_the_page_are_answered(store: Store, tmp_path: Path) -> None:
    indexed(store, "products", {f"P00{seed}": jpeg(seed) for seed in range(5)}, _HOG)
    copies = {f"S-00{n}": encoded(make_image(n), "JPEG", quality=60) for n in range(3)}
    indexed(store, "suppliers", copies, _HOG)
    settings = MatchSettings(threshold=0.8)
    MatchStage(store, "products__suppliers", settings, left="products", right="suppliers").run()
    (tmp_path / "photo.jpg").write_bytes(copies["S-002"])

    with Served(store) as server:
        answers = [
            _run(line.replace("http://127.0.0.1:8400", server.url), tmp_path) for line in _COMMANDS
        ]

    upload, by_item, of_supplier, matches, changes, document = answers
    assert upload["neighbors"][0]["id"] == "P002"
    assert len(by_item["neighbors"]) == 3
    assert of_supplier["neighbors"][0]["id"] == "P001"
    assert matches["total"] == changes["total"] == 3
    assert "/api/matches/{name}" in document["paths"]


def _run(line: str, folder: Path) -> dict[str, Any]:
    process = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=BUSY_S,
        check=False,
    )
    assert process.returncode == 0, (line, process.stderr)
    text = process.stdout or (folder / "openapi.json").read_text()
    answer: dict[str, Any] = json.loads(text)
    return answer


def test_page_and_command_have_every_setting() -> None:
    options = {option.name: option.opts[0] for option in command.params}

    assert set(ServeSettings.model_fields) == set(options) - {"store"}
    listed = set(re.findall(r"--[a-z][a-z-]+", _PAGE))
    assert listed - {"--help", *options.values()} == set()
