"""Tasks that share nothing with the process of the step, as those of a cluster, change no file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.blocks import small_blocks
from imgsim_assets_tests.support.compared_stores import CASES_OF_IMAGES, files_of
from imgsim_assets_tests.support.pickled_tasks import pickled_tasks


@pytest.mark.parametrize("name", CASES_OF_IMAGES)
def test_files_are_those_of_one_process(tmp_path: Path, built_of_images: Path, name: str) -> None:
    case = CASES_OF_IMAGES[name]
    store, other = (
        Store.open(shutil.copytree(built_of_images, tmp_path / name)) for name in ("one", "other")
    )

    with small_blocks():
        case.stage(store).run()
        with pickled_tasks() as runner:
            case.stage(other).run()

    assert set(runner.labels) >= case.labels
    assert files_of(other) == files_of(store)
