"""Cores, memory and number formats of this machine, without importing torch."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
from functools import cache
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
# Variables by which schedulers say how many cores a process has: Slurm, and OpenMP, which Ray sets.
_CORES = ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS")
_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
# Present where an NVIDIA driver is, natively and under Windows.
_DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg")
# CPU flags for bfloat16 products: x86 and ARM.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
# Torch's allocator reads this variable.
_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
# Numbers of parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Largest freed block, in bytes, that is reused; glibc before 2.35 accepts only the smaller limit.
_MAX_REUSED_BYTES = (1 << 30, 1 << 25)
_NEVER_TRIM = 1 << 30
# Error messages of libraries that run out of memory. oneDNN's "primitive descriptor" means an
# unsupported operation instead. 5 is nvJPEG's status for it, as torchvision reports it.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|bad_alloc|status_alloc_failed"
    r"|allocation_failed|could not create a (memory|primitive)(?! descriptor)"
    r"|failed to [a-z ]+: 5\b",
    re.IGNORECASE,
)


def usable_cores(quota_file: Path | None = None) -> int:
    """The number of cores that this process may use.

    The least of its affinity, the quotas of its control groups, SLURM_CPUS_PER_TASK and
    OMP_NUM_THREADS.

    Args:
        quota_file: cpu.max of the control group; default: of those that the process is in.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for file in [quota_file] if quota_file is not None else _quota_files():
        try:
            quota, period = file.read_text().split()
            cores = min(cores, math.ceil(int(quota) / int(period)))
        except (OSError, ValueError):  # no such file, or "max": no quota
            pass
    for variable in _CORES:
        # OpenMP allows a number for each level of nesting: the first one counts.
        value = os.environ.get(variable, "").partition(",")[0].strip()
        if value.isdecimal() and int(value):
            cores = min(cores, int(value))
    return max(1, cores)


def _quota_files(own_cgroup: Path = _OWN_CGROUP, cgroups: Path = _CGROUPS) -> list[Path]:
    """The files of CPU quotas of the process's control group and of those above it."""
    try:
        lines = own_cgroup.read_text().splitlines()
    except OSError:
        lines = []
    groups = [Path(line.removeprefix("0::/")) for line in lines if line.startswith("0::/")]
    folders = {folder for group in groups for folder in (group, *group.parents)} | {Path()}
    return [cgroups / folder / "cpu.max" for folder in sorted(folders)]


def usable_memory(limit_file: Path = _CGROUP_MEMORY) -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
        memory = min(memory, int(limit_file.read_text()))
    return memory


def may_have_gpu() -> bool:
    """Whether there is a driver of GPUs, so that torch is worth importing to look for one."""
    return any(Path(driver).exists() for driver in _DRIVER_FILES)


def has_bf16(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether the CPU multiplies bfloat16 in hardware."""
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return False
    flags = {"flags", "Features"}
    entries = (line.partition(":") for line in lines)
    return any(key.strip() in flags and _BF16_FLAGS & set(text.split()) for key, _, text in entries)


def enable_huge_pages() -> None:
    """Let torch allocate large tensors in huge pages, unless the environment says otherwise.

    Huge pages need a fraction of the address translations, which matters for layers larger than
    the caches, twice as much in a virtual machine. Torch reads the variable when it allocates
    its first tensor; Linux may still refuse (transparent_hugepage).
    """
    os.environ.setdefault(_HUGE_PAGES, "1")


@cache
def keep_freed_memory() -> None:
    """Let the C library reuse the memory of freed tensors.

    By default glibc returns each block of some megabytes to the system and requests a zeroed one
    for the next layer, which takes longer than the layer's arithmetic. Without glibc this does
    nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    # Without the first limit, the second would only stop glibc from adapting by itself.
    if any(mallopt(_M_MMAP_THRESHOLD, size) for size in _MAX_REUSED_BYTES):
        mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of any library means that a device or the machine ran out of memory."""
    # By name, since torch must not be imported here; on a CPU it raises a plain RuntimeError.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error))))
    )
