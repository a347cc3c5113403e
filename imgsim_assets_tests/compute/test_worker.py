from __future__ import annotations

import pytest

from imgsim_assets import __version__
from imgsim_assets.compute.worker import run_task
from imgsim_assets.errors import ComputeError
from imgsim_assets_tests.support.compute_tasks import square


def test_task_of_the_same_version_is_run() -> None:
    assert run_task(square, 3, __version__) == 9


def test_task_of_another_version_is_refused() -> None:
    with pytest.raises(ComputeError, match=r"and the step 0\.0\.0; install the same version"):
        run_task(square, 3, "0.0.0")
