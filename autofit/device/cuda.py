"""GPUs that torch calls ``cuda``, NVIDIA's and AMD's: found, counted and described without being opened."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from autofit.device import nvml
from autofit.device.device import Device
from autofit.device.kind import DeviceKind
from autofit.errors import UserError
from autofit.units import MIB

ASKED_LATER = 2**62
"""Memory of a device whose driver does not tell it; the worker that opens the device does."""
NODES = (Path("/dev/nvidia0"), Path("/dev/dxg"))
"""Where NVIDIA's driver, and the one for Linux under Windows, show a card."""
CUBLAS_WORKSPACE = 8_519_680
"""Bytes of one cuBLAS workspace on cards before Hopper (pytorch issue 95668), taken from the caching allocator."""
CUBLAS_WORKSPACE_HOPPER = 32 * MIB
"""The same from compute capability 9.0 on (pytorch issue 175344)."""
CUBLAS_THREADS = 2
"""The main thread and autograd's have a handle each: published peaks on A100 and T4 hold exactly two workspaces."""
CONTEXT = 450 * MIB
"""The device's context and loaded kernels: an estimate; 300 MB and more are reported since CUDA 11.7 loads kernels
when they are first used. The first trial measures it."""
CONTEXT_BEFORE_AMPERE = 150 * MIB
"""140.9 MiB measured on a T4 by fitcheck-llm."""


class Cuda(DeviceKind):
    """A GPU by NVIDIA or AMD, as its driver's library shows it."""

    name = "cuda"

    def find(self, number: int) -> Device | None:
        if number == 0 and nvml.visible_slice() is not None:
            return Device(kind=self.name, name="a slice of a GPU (MIG)", memory_bytes=ASKED_LATER)
        # AMD's driver has no NVML; torch finds its cards when the worker asks.
        if nvml.visible_indices() or Path("/dev/kfd").exists():
            return self._card(number)
        _refuse_cards_that_cannot_be_asked()
        return None

    def count(self) -> int:
        return len(nvml.visible_indices())

    def used_bytes(self, index: int) -> int | None:
        return nvml.used_bytes(index)

    def bytes_of_others(self, device: Device) -> int:
        in_use = nvml.used_bytes(device.index)
        card = nvml.name_and_memory(device.index)
        if in_use is None or card is None or card[1] is None:
            return 0
        reserved_by_driver = max(0, card[1] - device.memory_bytes)
        return max(0, in_use - reserved_by_driver)

    def visible(self, index: int, number: int = 1) -> str:
        if number == 1:
            return nvml.visible_slice() or str(index)
        indices = nvml.visible_indices()
        chosen = indices[indices.index(index) :][:number] if index in indices else []
        if len(chosen) < number:
            raise UserError(
                f"--processes {number}: each needs a GPU of its own, and from the one that is meant on there are "
                f"{len(chosen)} here."
            )
        return ",".join(map(str, chosen))

    def context_bytes(self, device: Device) -> int:
        return CONTEXT if (device.compute_capability or (8, 0)) >= (8, 0) else CONTEXT_BEFORE_AMPERE

    def workspace_bytes(self, device: Device) -> int:
        each = CUBLAS_WORKSPACE_HOPPER if (device.compute_capability or (0, 0)) >= (9, 0) else CUBLAS_WORKSPACE
        return CUBLAS_THREADS * each

    def _card(self, number: int) -> Device:
        _refuse_torch_without_gpus()
        indices = nvml.visible_indices()
        if not indices:
            return Device(kind=self.name, name="AMD GPU", memory_bytes=ASKED_LATER, index=number)
        if number >= len(indices):
            raise UserError(f"--device cuda:{number}: there are {len(indices)} GPUs here, numbered from 0.")
        found = nvml.name_and_memory(indices[number])
        if found is None:
            raise UserError(f"--device cuda:{number}: the driver does not answer for this GPU.")
        name, memory_bytes = found
        return Device(kind=self.name, name=name, memory_bytes=memory_bytes or ASKED_LATER, index=indices[number])


def _refuse_torch_without_gpus() -> None:
    """Raises UserError where the torch that is installed cannot use a GPU."""
    try:
        torch_version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return
    if torch_version.endswith("+cpu"):
        raise UserError(
            f"There is a GPU here, but torch {torch_version} is built without GPU support; "
            "install a CUDA build of torch, or say --device cpu."
        )


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
