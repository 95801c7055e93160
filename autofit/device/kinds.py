"""The kinds of devices there are, and finding the one that a search is for."""

from __future__ import annotations

import re

from autofit.device.cuda import Cuda
from autofit.device.device import Device
from autofit.device.kind import DeviceKind
from autofit.device.processor import Processor
from autofit.errors import UserError

KINDS: dict[str, DeviceKind] = {kind.name: kind for kind in (Cuda(), Processor())}
"""By torch's name; the first that the machine has is the one that ``auto`` means."""


def kind_of(device: Device | str) -> DeviceKind:
    """The kind of a device, or of torch's name of one such as ``cuda:0``. Raises KeyError for another kind."""
    return KINDS[(device if isinstance(device, str) else device.kind).split(":")[0]]


def find_device(label: str) -> Device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` -> the device, found without opening it and without importing torch.

    ``auto`` is the first card, and the CPU where there is none. ``index`` is the card's physical one, whatever
    CUDA_VISIBLE_DEVICES renumbers. Raises UserError where it is not there.
    """
    match = re.fullmatch(r"(\w+?)(?::(\d+))?", label)
    name, number = (match.group(1), match.group(2)) if match else ("", None)
    is_known = name in KINDS and (number is None or not KINDS[name].is_host)
    if not is_known and label != "auto":
        raise UserError(f"--device takes auto, cpu or cuda:0 (or another number); not '{label}'.")
    for kind in KINDS.values() if label == "auto" else [KINDS[name]]:
        device = kind.find(int(number or 0))
        if device is not None:
            return device
    raise UserError(f"--device {label}: no GPU was found here; --device cpu always works.")


def find_gpus(asked: str) -> list[str]:
    """Labels of the GPUs that ``--gpus`` names: ``all``, numbers such as ``0,1``, or ``none``.

    Raises UserError where one is not there, or they are not of one kind: what one measures says nothing of another.
    """
    if asked == "none":
        return []
    kind = next(kind for kind in KINDS.values() if not kind.is_host)
    numbers = [str(number) for number in range(kind.count())] if asked == "all" else asked.split(",")
    if not all(number.isdigit() for number in numbers):
        raise UserError(f"--gpus takes all, none or numbers such as 0,1; not '{asked}'.")
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"--gpus {asked}: " + ("a GPU is named twice." if numbers else "there is no GPU here."))
    labels = [kind.label(int(number)) for number in numbers]
    devices = [find_device(label) for label in labels]
    for label, device in zip(labels, devices, strict=True):
        if (device.name, device.memory_bytes) != (devices[0].name, devices[0].memory_bytes):
            raise UserError(
                f"--gpus {asked}: {labels[0]} is a {devices[0].name} and {label} a {device.name}, and what one of them "
                "measures says nothing of the other; name GPUs of one kind."
            )
    return labels
