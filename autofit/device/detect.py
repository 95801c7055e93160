"""Which device a search is for, found without opening it and without importing torch."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

from autofit.device import nvml
from autofit.device.device import Device
from autofit.device.host import host_memory_bytes, processor_name
from autofit.errors import UserError

ASKED_LATER = 2**62
"""Memory of a device whose driver does not tell it; the worker that opens the device does."""
NODES = (Path("/dev/nvidia0"), Path("/dev/dxg"))
"""Where NVIDIA's driver, and the one for Linux under Windows, show a card."""


def find_device(label: str) -> Device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` -> the device. Raises UserError where it is not there.

    ``auto`` is the first card, and the CPU where there is none. ``index`` is the card's physical one,
    whatever CUDA_VISIBLE_DEVICES renumbers.
    """
    if label == "cpu":
        return _processor()
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", label)
    if match is None:
        raise UserError(f"--device takes auto, cpu or cuda:0 (or another number); not '{label}'.")
    number = int(match.group(1) or 0)
    if number == 0 and nvml.visible_slice() is not None:
        return Device(kind="cuda", name="a slice of a GPU (MIG)", memory_bytes=ASKED_LATER)
    if _has_cards():
        return _card(number)
    _refuse_cards_that_cannot_be_asked()
    if label == "auto":
        return _processor()
    raise UserError(f"--device {label}: no GPU was found here; --device cpu always works.")


def _has_cards() -> bool:
    # AMD's driver has no NVML; torch finds its cards when the worker asks.
    return bool(nvml.visible_indices()) or Path("/dev/kfd").exists()


def _refuse_cards_that_cannot_be_asked() -> None:
    """Raises UserError where NVIDIA's device is there and its management library is not, as in some containers."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1", "NoDevFiles", "void")
    node = next((node for node in NODES if node.exists()), None)
    if node is not None and nvml.driver_version() is None and not is_hidden:
        raise UserError(
            f"There is an NVIDIA GPU here ({node}), but its management library (NVML) does not answer, and autofit "
            "asks it for the card's memory: start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility, or "
            "say --device cpu."
        )


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
        return Device(kind="cuda", name="AMD GPU", memory_bytes=ASKED_LATER, index=number)
    if number >= len(indices):
        raise UserError(f"--device cuda:{number}: there are {len(indices)} GPUs here, numbered from 0.")
    found = nvml.name_and_memory(indices[number])
    if found is None:
        raise UserError(f"--device cuda:{number}: the driver does not answer for this GPU.")
    name, memory_bytes = found
    return Device(kind="cuda", name=name, memory_bytes=memory_bytes or ASKED_LATER, index=indices[number])
