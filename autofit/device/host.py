"""The machine itself: its processor, its memory (a container's limit included), the kernel's out-of-memory kills."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import resource
import sys
from functools import cache
from pathlib import Path

import psutil

NATIVE_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
"""Environment of everything that trains on a CPU: entries of oneDNN's cache of kernels and of ideep's above it.

Both keep 1,024 by default and add an entry for every new shape of a 16-bit product, so a training whose micro-batches
differ in length grows for thousands of steps: 8 x 2 packed rows of genesis.txt (llama of 1 M parameters, bf16) needed
222 MiB in a short trial and 841 MiB in a whole one, 4 x 4 padded rows 186 and 1,703 MiB. With 32 entries it was 149
and 154, 106 and 123 MiB, at a step up to 11 % longer while shapes are new. With 8 entries the kernels of one step do
not fit and a step takes twice as long. 64 leaves room for models with more kinds of layers."""
NEAR_LIMIT = 0.25
"""Share of the cap: a process that dies of a native failure with less than this left has run out of memory. Native code
asks for large blocks at once, so little below the limit is enough."""

_CGROUP = Path("/sys/fs/cgroup")
_UNIT_OF_RSS = 1 if sys.platform == "darwin" else 1024  # getrusage(2)


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
    """Memory of this machine, or of the container around us where that is smaller."""
    return min(int(psutil.virtual_memory().total), _container_limit() or 2**62)


def host_memory_in_use_bytes() -> int:
    """Bytes of ``host_memory_bytes`` that are in use; memory that the kernel would give back is not counted."""
    machine = psutil.virtual_memory()
    in_use = int(machine.total - machine.available)
    limit = _container_limit()
    if limit is None:
        return in_use
    return max(_container_anonymous(), limit - int(machine.available))


def out_of_memory_kills() -> int | None:
    """Number of processes that the kernel has killed for want of memory so far; None where it does not say."""
    try:
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return None


def seconds_of_others() -> float | None:
    """CPU seconds that all but this process and its own took of its cores, other guests of the host (steal) too.

    Its own are what ``multiprocessing`` has started and what still runs, as the workers of a loader. In steps of a
    hundredth of a second. None where the system does not count them.
    """
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        own_cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    except (OSError, AttributeError):
        return None
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name in own_cores:
            # user, nice, system, idle, iowait, irq, softirq, steal (proc(5)); guests' time is within user and nice.
            user, nice, system, _, _, irq, softirq, steal = (int(word) for word in fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    busy = ticks / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return busy - own.user - own.system - _seconds_of_workers()


def _seconds_of_workers() -> float:
    seconds = 0.0
    for worker in multiprocessing.active_children():
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(worker.pid).cpu_times()
            seconds += times.user + times.system
    return seconds


def memory_fields(status: Path) -> dict[str, int]:
    """Every ``... kB`` line of a process's ``/proc/PID/status`` in bytes. Raises OSError where it cannot be read."""
    fields = {}
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            fields[name] = int(value.split()[0]) * 1024
    return fields


def has_segment(fields: dict[str, int]) -> bool:
    """True if a system tells all that ``peak_of_segment`` needs."""
    return fields.keys() >= {"VmHWM", "VmData", "RssAnon", "RssFile", "RssShmem"}


def peak_of_segment(fields: dict[str, int]) -> int:
    """Largest size of a process's data segment so far, from its memory fields; see ``DataSegment``."""
    peak_anonymous = fields["VmHWM"] - fields["RssFile"] - fields["RssShmem"]
    return max(peak_anonymous, fields["RssAnon"]) + fields["VmData"] - fields["RssAnon"]


def is_near_limit(peak: int, limit: int, cap: int) -> bool:
    """True if a data segment whose peak was ``peak`` came near ``limit``, ``cap`` of which were the trial's own."""
    return limit - peak <= NEAR_LIMIT * cap


def limited_segment_of(process: int) -> tuple[dict[str, int], int] | None:
    """Memory fields of another process and the limit of its data segment; None where it has none or is not ours."""
    try:
        limit = resource.prlimit(process, resource.RLIMIT_DATA)[0]
        fields = memory_fields(Path(f"/proc/{process}/status"))
    except (OSError, AttributeError):
        return None
    return None if limit == resource.RLIM_INFINITY or not has_segment(fields) else (fields, limit)


def reap(child: int) -> tuple[int, int]:
    """Exit code (negative for a signal) of a child that has ended, and the bytes it had in memory at most."""
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * _UNIT_OF_RSS


def own_peak_resident() -> int:
    """Bytes that this process had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT_OF_RSS


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
