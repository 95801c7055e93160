"""NVIDIA's management library: what a card has, uses and does, read without opening it.

torch's own queries open a CUDA context of several hundred MiB; these do not. Every function answers
None or nothing where there is no NVIDIA driver.
"""

from __future__ import annotations

import os
from typing import Any

import pynvml

from autofit.device.device import DeviceLoad


def visible_indices() -> list[int]:
    """Physical indices of the cards this process may use, in the order CUDA numbers them.

    ``CUDA_VISIBLE_DEVICES`` may hold indices or UUIDs; an entry that is neither ends the list, as in CUDA.
    """
    if not _is_ready():
        return []
    count = int(pynvml.nvmlDeviceGetCount())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(range(count))
    indices: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        index = _index_of(entry, count)
        if index is None:
            break
        indices.append(index)
    return indices


def visible_slice() -> str | None:
    """The slice of a card (Multi-Instance GPU) that ``CUDA_VISIBLE_DEVICES`` names first; None for whole cards."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    return first if first.startswith("MIG-") else None


def name_and_memory(index: int) -> tuple[str, int | None] | None:
    """The card's name and its total bytes; the second None where the driver does not tell (MIG, unified memory)."""
    if not _is_ready():
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        name = _text(pynvml.nvmlDeviceGetName(handle))
    except pynvml.NVMLError:
        return None
    try:
        return name, int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError:
        return name, None


def compute_capability(index: int) -> tuple[int, int] | None:
    """The card's compute capability, which the driver tells without opening the card."""
    if not _is_ready():
        return None
    try:
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError:
        return None
    return int(major), int(minor)


def driver_version() -> str | None:
    """The version of NVIDIA's driver."""
    return _text(pynvml.nvmlSystemGetDriverVersion()) if _is_ready() else None


def used_bytes(index: int) -> int | None:
    """Bytes in use on the card by every process and the driver."""
    if not _is_ready():
        return None
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).used)
    except pynvml.NVMLError:
        return None


def load(index: int) -> DeviceLoad:
    """Clock, temperature, power and the reasons the driver gives for throttling (a bit mask)."""
    if not _is_ready():
        return DeviceLoad()
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    power = _ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    return DeviceLoad(
        sm_clock_mhz=_ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        temperature_celsius=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        power_watts=None if power is None else power / 1000,
        throttle_reasons=_ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle),
    )


_ready_in: int | None = None  # the process that initialised it


def _is_ready() -> bool:
    """True where NVML answers. It stays initialised: shutting down lets go of a card without persistence mode."""
    global _ready_in
    if _ready_in != os.getpid():
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return False
        _ready_in = os.getpid()
    return True


def _ask(question: Any, *arguments: Any) -> int | None:
    try:
        return int(question(*arguments))
    except pynvml.NVMLError:
        return None


def _index_of(entry: str, count: int) -> int | None:
    if entry.isdigit():
        return int(entry) if int(entry) < count else None
    for index in range(count):
        uuid = _text(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index)))
        if entry and uuid.startswith(entry):
            return index
    return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
