from __future__ import annotations

import pytest

from imgsim_assets.compute.worker import run_task
from imgsim_assets.errors import ComputeError


def test_task_of_another_version_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(ComputeError, match=r"and the step 0\.0\.0; install the same version"):
        run_task("key", [], 3, "0.0.0", "auto")
