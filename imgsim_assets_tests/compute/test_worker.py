from __future__ import annotations

import pytest

from imgsim_assets import __version__
from imgsim_assets.compute import worker
from imgsim_assets.compute.device import use_device
from imgsim_assets.compute.memory import DEFAULT_BUDGET
from imgsim_assets.compute.worker import run_task
from imgsim_assets.errors import ComputeError


def test_task_of_another_version_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(ComputeError, match=r"and the step 0\.0\.0; install the same version"):
        run_task("key", [], 3, "0.0.0", "auto", DEFAULT_BUDGET)


def test_task_computes_joins_on_the_declared_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def declared_device(_: int) -> str:
        with use_device(None) as device:
            return device.declared

    monkeypatch.setattr(worker, "_last", ("key", declared_device))

    assert worker.run_task("key", [], 3, __version__, "cpu", DEFAULT_BUDGET) == "cpu"
