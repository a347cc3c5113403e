from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from imgsim_assets.compute.settings import Compute, ComputeSettings
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.errors import SettingsError
from imgsim_assets.similarity import threshold_join

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


@pytest.mark.parametrize(
    "address",
    ["local", "auto", "head:6379", "127.0.0.1:6379", "[::1]:6379", "ray://head.example:10001"],
)
def test_address_of_a_cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", address)

    assert _RAY.problem() is None


@pytest.mark.parametrize("address", ["head", "http://head:8265", "head:6379/x", "ray://head", " "])
def test_other_address_is_an_error_that_says_which_one_to_give(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", address)

    problem = _RAY.problem() or ""

    assert problem.startswith(f"IMGSIM_RAY_ADDRESS: {address!r} is no address of a Ray cluster")
    assert "host:6379 on a machine of the cluster, ray://host:10001 elsewhere" in problem


def test_ray_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    assert (_RAY.problem() or "").endswith("pip install 'imgsim_assets[ray]'")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_unknown_device_is_an_error_that_names_the_known_ones(device: str) -> None:
    with pytest.raises(ValidationError, match="is not one of auto, cpu, cuda, cuda:N"):
        ComputeSettings(device=device)


def test_device_of_tasks_that_occupy_no_gpu_is_an_error() -> None:
    with pytest.raises(ValidationError, match="set 'gpus_per_task: 1', or 'device: auto'"):
        ComputeSettings(engine="ray", device="cuda")

    assert ComputeSettings(engine="ray", device="cuda", gpus_per_task=0.5).device == "cuda"
    assert ComputeSettings(engine="ray", device="cpu").device == "cpu"


@pytest.mark.parametrize(
    "key", ["cpus_per_task", "gpus_per_task", "memory_per_task_mib", "retries"]
)
def test_key_of_a_cluster_is_refused_without_one(key: str) -> None:
    with pytest.raises(ValidationError, match=f"'engine: local' ignores {key}: set 'engine: ray'"):
        _COMPUTE.validate_python({key: 2})

    assert _COMPUTE.validate_python({"engine": "ray", key: 2}).engine == "ray"
    defaults = ComputeSettings().model_dump()
    assert _COMPUTE.validate_python(defaults) == ComputeSettings()


def test_joins_of_a_step_use_its_declared_device_and_tell_it() -> None:
    rows = np.eye(4, dtype=np.float32)

    with use_compute(ComputeSettings(device="cpu")) as device:
        threshold_join(rows, rows, 0.5)
    with use_compute(ComputeSettings()) as unused:
        pass

    assert (device.declared, str(device), str(unused)) == ("cpu", "cpu", "not needed")
