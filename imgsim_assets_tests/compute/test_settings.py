from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from imgsim_assets.compute.settings import Compute, ComputeSettings
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.errors import SettingsError

_COMPUTE = TypeAdapter[ComputeSettings](Compute)
_RAY = ComputeSettings(engine="ray")


@pytest.fixture(autouse=True)
def _ray_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.delenv("IMGSIM_RAY_ADDRESS", raising=False)


def test_the_name_of_the_engine_is_enough() -> None:
    assert _COMPUTE.validate_python("ray") == _RAY
    assert _COMPUTE.validate_python({"engine": "ray", "cpus_per_task": 4}).cpus_per_task == 4


def test_unknown_engine_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="'local' or 'ray'"):
        _COMPUTE.validate_python("dask")


def test_local_needs_nothing() -> None:
    assert ComputeSettings().problem() is None


def test_ray_needs_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "IMGSIM_RAY_ADDRESS is not set" in (_RAY.problem() or "")
    with pytest.raises(SettingsError, match=r"^compute: .*IMGSIM_RAY_ADDRESS"), use_compute(_RAY):
        pass

    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", "127.0.0.1:6379")
    assert _RAY.problem() is None


def test_ray_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    assert (_RAY.problem() or "").endswith("pip install 'imgsim_assets[ray]'")
