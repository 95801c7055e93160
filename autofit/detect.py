"""Which device a search is for, found without opening it and without importing torch."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from autofit import nvml
from autofit.device import Device
from autofit.errors import UserError
from autofit.host import host_memory_bytes, processor_name


def find_device(label: str) -> Device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` -> the device. Raises UserError where it is not there.

    ``auto`` is the first card, and the CPU where there is none. ``index`` is the card's physical one,
    whatever CUDA_VISIBLE_DEVICES renumbers.
    """
    if label == "auto":
        return _card(0) if _has_cards() else _processor()
    if label == "cpu":
        return _processor()
    match = re.fullmatch(r"cuda(?::(\d+))?", label)
    if match is None:
        raise UserError(f"--device takes auto, cpu or cuda:0 (or another number); not '{label}'.")
    if not _has_cards():
        raise UserError(f"--device {label}: no GPU was found here; --device cpu always works.")
    return _card(int(match.group(1) or 0))


def _has_cards() -> bool:
    # AMD's driver has no NVML; torch finds its cards when the worker asks.
    return bool(nvml.visible_indices()) or Path("/dev/kfd").exists()


def _processor() -> Device:
    return Device(kind="cpu", name=processor_name(), memory_bytes=host_memory_bytes())


def _card(number: int) -> Device:
    try:
        torch_version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch_version = ""
    if torch_version.endswith("+cpu"):
        raise UserError(
            f"There is a GPU here, but torch {torch_version} is built without GPU support; "
            "install a CUDA build of torch, or say --device cpu."
        )
    indices = nvml.visible_indices()
    if not indices:
        return Device(kind="cuda", name="AMD GPU", memory_bytes=2**62, index=number)
    if number >= len(indices):
        raise UserError(f"--device cuda:{number}: there are {len(indices)} GPUs here, numbered from 0.")
    found = nvml.name_and_memory(indices[number])
    if found is None:
        raise UserError(f"--device cuda:{number}: the driver does not answer for this GPU.")
    name, memory_bytes = found
    return Device(kind="cuda", name=name, memory_bytes=memory_bytes, index=indices[number])
