"""Accelerators: the memory cap, peaks and clock of each kind of device. This file alone uses ``torch.cuda``.

A device kind is one class here. Workers only: this imports torch.

CUDA figures: the context is what the device's memory in use grew by when the context was opened, less
what the allocator reserved. CPU figures: see ``Processor``.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from autofit.device import nvml
from autofit.device.device import Device, DeviceLoad
from autofit.device.host import (
    has_segment,
    host_memory_bytes,
    is_near_limit,
    memory_fields,
    own_peak_resident,
    peak_of_segment,
    processor_name,
    seconds_of_others,
)
from autofit.study.measurement import Memory
from autofit.trial.protocol import MemoryPlan
from autofit.units import MIB

LARGE_BLOCK = 32 * MIB
"""Has a segment of its own where segments do not grow."""

Mark = Any


class CapTooSmallError(Exception):
    """The memory limit leaves nothing for the allocator; the text says what took it."""


class Accelerator(Protocol):
    """One device as a trial uses it, in the order of the methods."""

    torch_device: str
    forgets_kernels: bool
    """True if kernels are made for each shape and forgotten again: a shape that comes again pays for them again."""

    def facts(self) -> Device:
        """Facts of the device."""

    def lacks(self) -> dict[str, str]:
        """Features that knobs need and the device has not, with the reason."""

    def open(self, plan: MemoryPlan, reserved_for_paging: int, held_bytes: int = 0) -> None:
        """Take the baseline and enforce the cap. Raises CapTooSmallError.

        ``held_bytes`` of the training lie in the host's memory already.
        """

    def release(self) -> None:
        """Lift the cap, so that a failure can be written down."""

    def is_near_cap(self) -> bool:
        """True if memory was nearly used up: evidence for a failure that does not name its cause."""

    def mark(self) -> Mark:
        """A moment on the device's own time line; taking it waits for nothing."""

    def seconds(self, earlier: Mark, later: Mark) -> float:
        """Seconds between two marks, after ``synchronize``."""

    def synchronize(self) -> None:
        """Wait until the device has done everything it was given."""

    def load(self) -> DeviceLoad:
        """Readings of its sensors now."""

    def alloc_retries(self) -> int:
        """Number of times the allocator had to empty its cache and ask again, so far."""

    def memory(self, paged_state: int, missing_inputs: int) -> Memory:
        """Peaks since ``open`` or ``forget_peak``, inputs that a shortened step left out included."""

    def forget_peak(self) -> None:
        """After an allocation that failed: give cached memory back, and measure peaks from now on."""

    def forget_drawing(self) -> None:
        """After weights were drawn on the device: a training loads them on the host, and takes only what they fill."""


def accelerator_for(torch_device: str) -> Accelerator:
    """The row for a torch device. Raises ValueError for a kind that is not here."""
    kind, _, number = torch_device.partition(":")
    if kind not in ACCELERATORS:
        raise ValueError(f"autofit does not know how to measure on '{kind}'")
    accelerator: Accelerator = ACCELERATORS[kind](int(number or 0))
    return accelerator


def devices_untouched() -> bool:
    """True if this process has opened no device yet, and may fork children that do."""
    return not torch.cuda.is_initialized()


def hide_devices() -> None:
    """Let this process, which has opened no device yet, and its children see none.

    Optimizers ask for the accelerator's stream even where all tensors are on the CPU (torch/optim/optimizer.py,
    ``_accelerator_graph_capture_health_check``), which opens a visible device.
    """
    os.environ.update(CUDA_VISIBLE_DEVICES="", HIP_VISIBLE_DEVICES="")


class DriverAnswers:
    """Answers by the driver to what libraries ask of a CUDA card when they are imported, which would open it.

    bitsandbytes asks for its capability, torchao (by ``torch.utils._triton.has_triton``) for its properties. Used while
    a process is to stay fit for forking; ``lift`` in the forked one.
    """

    _NAMES = ("get_device_capability", "get_device_properties", "current_device")

    def __init__(self, capability: tuple[int, int]) -> None:
        self._real = {name: getattr(torch.cuda, name) for name in self._NAMES}
        answers = {
            "get_device_capability": lambda device=None: capability,
            "get_device_properties": lambda device=None: _KnownProperties(self, capability),
            "current_device": lambda: 0,
        }
        for name, answer in answers.items():
            setattr(torch.cuda, name, answer)

    def lift(self) -> None:
        """Have torch answer itself again, and forget what was concluded."""
        for name, real in self._real.items():
            setattr(torch.cuda, name, real)
        interfaces = sys.modules.get("torch._dynamo.device_interface")
        if interfaces is not None:
            interfaces.caching_worker_device_properties.pop("cuda", None)


class _KnownProperties:
    """A card's properties as far as the driver was asked; for any other the card itself is, which opens it."""

    def __init__(self, answers: DriverAnswers, capability: tuple[int, int]) -> None:
        self._answers = answers
        self.major, self.minor = capability

    def __getattr__(self, name: str) -> Any:
        self._answers.lift()
        return getattr(torch.cuda.get_device_properties(0), name)


class DataSegment:
    """The data segment of this Linux process, in bytes: private writable memory, the quantity RLIMIT_DATA limits.

    The kernel keeps no peak of it, but one of all resident pages (VmHWM). Pages of mapped files (the libraries' code)
    are almost never given back, so the peak of anonymous pages is VmHWM less the file pages at the end. What the
    segment holds beyond resident pages (thread stacks, code buffers of just-in-time compilers) hardly shrinks, so its
    size at the end is added. ``python -m benchmarks.cpu_memory`` holds the sum against what trials die without.
    """

    def __init__(self) -> None:
        self._status = Path("/proc/self/status")
        self.available = self._status.exists() and has_segment(memory_fields(self._status))

    @property
    def now(self) -> int:
        """Size of the segment."""
        return self._fields()["VmData"]

    @property
    def peak(self) -> int:
        """Largest size since ``reset_peak``."""
        return peak_of_segment(self._fields())

    def reset_peak(self) -> None:
        """Make VmHWM start again from what is resident now (Linux's ``clear_refs``, value 5)."""
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def _fields(self) -> dict[str, int]:
        return memory_fields(self._status)


class Processor:
    """The CPU. Capped, exhausted and reported is one quantity: the growth of the process's data segment.

    Other quantities were measured and left (2 cores, llama of 1 M parameters, genesis.txt). Resident pages are not
    what RLIMIT_DATA limits: up to 385 MiB less. Mapping every block over 128 KiB on its own (MALLOC_MMAP_THRESHOLD_)
    makes the segment follow live tensors and doubles the step (62 to 132 ms). Never giving memory back
    (MALLOC_TRIM_THRESHOLD_) makes the peak exact, saves no time and needs 1 to 7 % more.
    """

    torch_device = "cpu"
    forgets_kernels = True  # oneDNN's; see NATIVE_CACHES
    is_alone = True
    """True where no other process is a part of the training: all that keep cores busy disturb it."""

    def __init__(self) -> None:
        self._segment = DataSegment()
        self._baseline = 0
        self._cap = 0
        self._held = 0

    def facts(self) -> Device:
        return Device(kind="cpu", name=processor_name(), memory_bytes=host_memory_bytes())

    def lacks(self) -> dict[str, str]:
        return {}

    def open(self, plan: MemoryPlan, reserved_for_paging: int, held_bytes: int = 0) -> None:
        self._cap, self._held = plan.own_bytes, held_bytes
        if self._cap <= 0:
            raise CapTooSmallError("other processes already use all of this machine's memory")
        if self._cap <= held_bytes:
            raise CapTooSmallError("the weights alone are more than the memory limit leaves")
        if self._segment.available:
            _start_threads()
            self._segment.reset_peak()
            self._baseline = self._segment.now
            resource.setrlimit(resource.RLIMIT_DATA, (self._limit, resource.RLIM_INFINITY))

    def release(self) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def is_near_cap(self) -> bool:
        if not self._segment.available or not self._cap:
            return False
        return is_near_limit(self._segment.peak, self._limit, self._cap)

    @property
    def _limit(self) -> int:
        """Of the data segment: what the training holds already is part of the baseline and of the cap."""
        return self._baseline + self._cap - self._held

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, earlier: float, later: float) -> float:
        return later - earlier

    def synchronize(self) -> None:
        return None

    def load(self) -> DeviceLoad:
        return DeviceLoad(others_seconds=seconds_of_others() if self.is_alone else None)

    def alloc_retries(self) -> int:
        return 0

    def memory(self, paged_state: int, missing_inputs: int) -> Memory:
        # Other systems give the peak of everything only; better too much than nothing.
        peak = self._segment.peak - self._baseline + self._held if self._segment.available else own_peak_resident()
        peak = max(peak, 0) + missing_inputs
        return Memory(peak_allocated=peak, peak_reserved=peak, context=0, paged_state=0, cap=self._cap)

    def forget_peak(self) -> None:
        if self._segment.available:
            self._segment.reset_peak()

    def forget_drawing(self) -> None:
        return None


def _start_threads() -> None:
    """Start torch's pool of threads: their stacks are the process's, not the training's."""
    torch.ones(2**20).exp_()


class CudaCard:
    """A CUDA (or ROCm) card by its number among those that this process sees; workers of ours see one."""

    forgets_kernels = False

    def __init__(self, index: int = 0) -> None:
        """Made before anything is imported that opens the card, so that what it then takes is the context's."""
        self._index = index
        self.torch_device = f"cuda:{index}"
        self._context = 0
        self._cap = 0
        visible = nvml.visible_indices()
        self._physical_index = visible[index] if index < len(visible) else None
        self._in_use_before = self._in_use()

    def began_with(self, in_use: int) -> None:
        """Of a process that opened the card before this was made: what was in use before it did."""
        self._in_use_before = in_use

    def facts(self) -> Device:
        if not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} cannot use a GPU here")
        properties = torch.cuda.get_device_properties(self._index)
        return Device(
            kind="cuda",
            name=properties.name,
            memory_bytes=properties.total_memory,
            compute_capability=(properties.major, properties.minor),
        )

    def lacks(self) -> dict[str, str]:
        lacking = {}
        if torch.version.hip is not None:
            lacking["tf32"] = f"tf32 is NVIDIA's, and torch {torch.__version__} is built for ROCm"
        if not self._has_expandable_segments():
            lacking["expandable_segments"] = "this platform's driver has no expandable segments"
        return lacking

    def _has_expandable_segments(self) -> bool:
        """Asked of the allocator itself: where the driver cannot map pages it takes ordinary segments and warns."""
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")
        try:
            block = torch.empty(LARGE_BLOCK, dtype=torch.uint8, device=self.torch_device)
            segments = torch.cuda.memory_snapshot()
            return any(each["is_expandable"] for each in segments if each["address"] <= block.data_ptr())
        finally:
            torch.cuda.memory._set_allocator_settings("expandable_segments:False")

    def open(self, plan: MemoryPlan, reserved_for_paging: int, held_bytes: int = 0) -> None:
        torch.cuda.set_device(self._index)
        # A product in half precision opens the context and loads cuBLAS, whose workspace is its own.
        block = torch.ones(256, 256, device=self.torch_device, dtype=torch.float16)
        torch.mm(block, block)
        del block
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info(self._index)
        self._context = self._context_now(otherwise=total - free)
        torch.cuda.empty_cache()
        self._cap = plan.own_bytes - self._context - reserved_for_paging
        if self._cap <= 0:
            raise CapTooSmallError("the memory limit leaves nothing after the device's context and paged state")
        torch.cuda.set_per_process_memory_fraction(min(1.0, self._cap / total), self._index)
        torch.cuda.reset_peak_memory_stats(self._index)

    def release(self) -> None:
        return None

    def is_near_cap(self) -> bool:
        return False  # CUDA says itself when memory ran out

    def mark(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, earlier: Any, later: Any) -> float:
        return float(earlier.elapsed_time(later)) / 1000

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def load(self) -> DeviceLoad:
        return DeviceLoad() if self._physical_index is None else nvml.load(self._physical_index)

    def alloc_retries(self) -> int:
        return int(torch.cuda.memory_stats(self._index).get("num_alloc_retries", 0))

    def memory(self, paged_state: int, missing_inputs: int) -> Memory:
        return Memory(
            peak_allocated=torch.cuda.max_memory_allocated(self._index) + missing_inputs,
            peak_reserved=torch.cuda.max_memory_reserved(self._index) + missing_inputs,
            # Kernels that were loaded since (attention, cuDNN, Triton) count, too.
            context=max(self._context, self._context_now(otherwise=0) - paged_state),
            paged_state=paged_state,
            cap=self._cap,
            device_used=self._in_use(),
            alloc_retries=self.alloc_retries(),
        )

    def _in_use(self) -> int | None:
        return None if self._physical_index is None else nvml.used_bytes(self._physical_index)

    def _context_now(self, otherwise: int) -> int:
        """Growth of the card's use (``otherwise`` where the driver does not tell), less what the allocator holds."""
        in_use, before = self._in_use(), self._in_use_before
        grown = otherwise if in_use is None or before is None else in_use - before
        return max(0, grown - int(torch.cuda.memory_reserved(self._index)))

    def forget_peak(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._index)

    def forget_drawing(self) -> None:
        self.forget_peak()


ACCELERATORS: dict[str, Callable[[int], Accelerator]] = {"cpu": lambda number: Processor(), "cuda": CudaCard}
"""By torch's name of the kind: what makes one from the device's number."""
