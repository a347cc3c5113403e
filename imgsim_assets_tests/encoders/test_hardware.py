from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.hardware import (
    has_bf16,
    is_out_of_memory,
    keep_freed_memory,
    usable_cores,
    usable_memory,
)
from imgsim_assets_tests.support.fresh_python import printed_lines


@pytest.mark.parametrize(
    ("quota", "most"), [("100000 100000", 1), ("50000 100000", 1), ("150000 100000", 2)]
)
def test_container_quota_limits_cores(quota: str, most: int, tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)

    assert usable_cores(file) == min(most, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("content", ["max 100000\n", "", "nonsense"])
def test_cores_follow_affinity_without_quota(content: str, tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(content)

    assert usable_cores(file) == len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path / "gone") == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("variable", ["SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"])
@pytest.mark.parametrize(
    ("value", "limit"), [("1", 1), ("1,4", 1), ("100000", None), ("", None), ("many", None)]
)
def test_cores_of_the_scheduler_are_honored(
    variable: str, value: str, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = usable_cores()
    monkeypatch.setenv(variable, value)

    assert usable_cores() == (limit or cores)


def test_quotas_of_all_control_groups_of_the_process_count(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("12:cpu:/old\n0::/job/step\n")

    files = hardware._quota_files(own, tmp_path)

    folders = [tmp_path, tmp_path / "job", tmp_path / "job" / "step"]
    assert files == [folder / "cpu.max" for folder in folders]
    assert hardware._quota_files(tmp_path / "gone", tmp_path) == [tmp_path / "cpu.max"]


@pytest.mark.parametrize("content", ["max\n", "", "9" * 30])
def test_memory_is_that_of_the_machine_without_limit(content: str, tmp_path: Path) -> None:
    file = tmp_path / "memory.max"
    file.write_text(content)

    assert usable_memory(file) == usable_memory(tmp_path / "gone") > 2**28


def test_container_limit_limits_memory(tmp_path: Path) -> None:
    file = tmp_path / "memory.max"
    file.write_text("104857600\n")

    assert usable_memory(file) == 100 * 2**20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        ("flags : fpu amx_bf16", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("model name\t: the bf16 one\n", False),
        ("", False),
    ],
)
def test_has_bf16_reads_cpu_flags(text: str, expected: bool, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)

    assert has_bf16(file) is expected
    assert has_bf16(tmp_path / "gone") is False


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (2**40, [(-3, 2**30), (-1, 2**30)]),
        (2**25, [(-3, 2**30), (-3, 2**25), (-1, 2**30)]),
        (0, [(-3, 2**30), (-3, 2**25)]),
    ],
)
def test_mallopt_falls_back_to_smaller_limit(
    most: int, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def mallopt(parameter: int, value: int) -> int:
        calls.append((parameter, value))
        return int(parameter == -1 or value <= most)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))

    keep_freed_memory.__wrapped__()

    assert calls == expected


def test_keep_freed_memory_is_idempotent() -> None:
    keep_freed_memory()
    keep_freed_memory()

    assert keep_freed_memory.cache_info().misses == 1


_FLAGS_OF_A_TENSOR = """
import os, sys
os.environ.pop("THP_MEM_ALLOC_ENABLE", None)
os.environ.update(argument.split("=") for argument in sys.argv[1:])
from imgsim_assets.encoders.encoder import load_encoder
from imgsim_assets.encoders.settings import EncoderSettings
load_encoder(EncoderSettings(factory="imgsim_assets_tests.support.custom_encoders:module",
                             version="1", device="cpu"))
import torch
tensor = torch.ones(2**24)
middle = tensor.data_ptr() + 2**25
for line in open("/proc/self/smaps"):
    first, *rest = line.split()
    if "-" in first and not first.endswith(":"):
        start, end = (int(place, 16) for place in first.split("-"))
    elif first == "VmFlags:" and start <= middle < end:
        print("hg" in rest)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's list of mappings")
@pytest.mark.parametrize(("declared", "expected"), [((), "True"), (("0",), "False")])
def test_huge_pages_are_enabled_unless_environment_decides(
    declared: tuple[str, ...], expected: str
) -> None:
    arguments = [f"THP_MEM_ALLOC_ENABLE={value}" for value in declared]

    assert printed_lines(_FLAGS_OF_A_TENSOR, *arguments) == [expected]


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's exception."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("HIP"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("Error while decoding JPEG images: Failed to decode batch: 5"), True),
        (RuntimeError("Error while decoding JPEG images: Failed to decode batch: 3"), False),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_recognized_for_any_library(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
