"""The machine itself: its processor, its memory (a container's limit included), the kernel's out-of-memory kills."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


@cache
def processor_name() -> str:
    """The processor's model and how many cores this process may use."""
    model = platform.processor() or platform.machine() or "CPU"
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    return f"{model} ({cores} cores)"


def host_memory_bytes() -> int:
    """What this machine, or the container around us where that is smaller, has."""
    return min(int(psutil.virtual_memory().total), _container_limit() or 2**62)


def host_memory_in_use_bytes() -> int:
    """What others use of ``host_memory_bytes``; memory that the kernel would give back is not counted."""
    machine = psutil.virtual_memory()
    in_use = int(machine.total - machine.available)
    limit = _container_limit()
    if limit is None:
        return in_use
    return max(_container_anonymous(), limit - int(machine.available))


def out_of_memory_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since it started; None where it does not say."""
    try:
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return None


def _container_limit() -> int | None:
    limit = _read_number(_CGROUP / "memory.max") or _read_number(_CGROUP / "memory" / "memory.limit_in_bytes")
    return limit if limit is not None and limit < psutil.virtual_memory().total else None


def _container_anonymous() -> int:
    try:
        for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines():
            if line.startswith("anon "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
