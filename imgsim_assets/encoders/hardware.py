"""What this machine has to compute with, found without importing torch."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
from functools import cache
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
# Names under which CPUs say that they multiply bfloat16: x86 and ARM.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
# Read by torch's allocator.
_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
# Numbers of parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Blocks of up to so many bytes are kept; the smaller number is the most that glibc takes before
# 2.35.
_KEPT = (1 << 30, 1 << 25)
_NEVER_TRIMMED = 1 << 30
# What libraries write when a device or the machine has no memory left. oneDNN's "primitive
# descriptor" is another matter: it says what it does not offer. 5 is nvJPEG's status of a lack of
# memory, as torchvision reports it.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|bad_alloc|status_alloc_failed"
    r"|allocation_failed|could not create a (memory|primitive)(?! descriptor)"
    r"|failed to [a-z ]+: 5\b",
    re.IGNORECASE,
)


def usable_cores(quota_file: Path = _CGROUP_QUOTA) -> int:
    """The cores that this process may use, by its affinity and its container's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        pass
    return max(1, cores)


def usable_memory(limit_file: Path = _CGROUP_MEMORY) -> int:
    """Bytes that this process may use at most: the machine's, or its container's limit."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
        memory = min(memory, int(limit_file.read_text()))
    return memory


def has_bf16(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether the CPU multiplies bfloat16 in hardware."""
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return False
    flags = {"flags", "Features"}
    named = (line.partition(":") for line in lines)
    return any(key.strip() in flags and _BF16_FLAGS & set(text.split()) for key, _, text in named)


def enable_huge_pages() -> None:
    """Let torch have large tensors in huge pages, unless the environment says otherwise.

    A processor finds its way in them with a fraction of the look-ups, which counts where a
    layer is larger than the caches, and doubly in a virtual machine. Torch looks at this when it
    makes its first tensor, and Linux has the last word (transparent_hugepage).
    """
    os.environ.setdefault(_HUGE_PAGES, "1")


@cache
def keep_freed_memory() -> None:
    """Let the C library keep what large tensors free, for the next ones.

    By default glibc returns every block of some megabytes to the system and takes a zeroed
    one for the next layer of the network, which takes longer than the layer's arithmetic.
    Without glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    # Where the first is refused, the second would only stop glibc from adapting by itself.
    if any(mallopt(_M_MMAP_THRESHOLD, size) for size in _KEPT):
        mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIMMED)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, of whatever library and device."""
    # Torch's own class must not be imported here; on a CPU it raises a plain RuntimeError.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error))))
    )
