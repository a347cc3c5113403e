from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from imgsim_assets.compute.device import use_device
from imgsim_assets.encoders import hardware, torch_device
from imgsim_assets.errors import SettingsError
from imgsim_assets.similarity import device, threshold_join, top_k
from imgsim_assets.similarity.device import chosen_device
from imgsim_assets_tests.support.fresh_python import printed_lines
from imgsim_assets_tests.support.vectors import noise

GPU = torch.device("cuda:0")
LARGE = 10**12


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU that no program uses yet."""
    monkeypatch.setattr(hardware, "may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device, "_work_on_cpu", 0.0)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "may_have_gpu", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("one_gpu")
def test_auto_starts_a_gpu_when_joins_have_cost_as_much_as_the_start() -> None:
    with use_device("auto") as used:
        chosen = [chosen_device(LARGE) for _ in range(4)]

    assert chosen == [None, None, GPU, GPU]
    assert str(used) == "cpu, cuda:0"


@pytest.mark.usefixtures("one_gpu")
def test_auto_uses_a_gpu_that_is_in_use_for_all_but_small_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)

    assert chosen_device(LARGE // 50) == GPU
    assert chosen_device(LARGE // 1000) is None


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize(
    ("declared", "expected"), [("cpu", None), ("cuda", GPU), ("cuda:0", GPU), (None, None)]
)
def test_declared_device_computes_joins_of_any_size(
    declared: str | None, expected: torch.device | None
) -> None:
    with use_device(declared) as used:
        assert chosen_device(1000) == expected
        assert chosen_device(0) is None

    assert str(expected or "cpu") in str(used)


def test_without_a_driver_auto_is_the_cpu_and_loads_no_torch() -> None:
    lines = printed_lines(
        "import sys, numpy as np\n"
        "from imgsim_assets.similarity import device, threshold_join\n"
        "from imgsim_assets.encoders import hardware\n"
        "hardware._DRIVER_FILES, device._MIN_WORK, device._START_WORK = (), 0, 0\n"
        "rows = np.eye(4, dtype=np.float32)\n"
        "print(len(threshold_join(rows, rows, 0.5)[0]), 'torch' in sys.modules)\n"
    )

    assert lines == ["4 False"]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    "join",
    [
        lambda rows: threshold_join(rows, rows, 0.5, device="cuda"),
        lambda rows: top_k(rows, rows, 1, device="cuda:1"),
    ],
)
def test_a_gpu_that_is_not_there_is_named(join: Callable[[object], object]) -> None:
    with pytest.raises(SettingsError, match=r"device: there is no cuda.* on this machine"):
        join(noise(3, 4, 1))


@pytest.mark.parametrize("name", ["gpu", "cuda:", "CPU", ""])
def test_another_name_of_a_device_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="is not one of auto, cpu, cuda, cuda:N"), use_device(name):
        pass


@pytest.mark.usefixtures("one_gpu")
def test_joins_inside_a_context_use_its_device_and_tell_it() -> None:
    with use_device("cuda") as outer:
        with use_device(None):
            chosen_device(1)
        with use_device("cpu"):
            chosen_device(1)

    assert str(outer) == "cuda:0"
    with use_device("auto") as unused:
        pass
    assert str(unused) == "not needed"


def test_sums_of_bfloat16_are_float32_in_context_and_as_before_after() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction

    with torch_device.with_float32_sums():
        assert not matmul.allow_bf16_reduced_precision_reduction

    assert matmul.allow_bf16_reduced_precision_reduction == before
