"""A kind of device: everything that differs between a CPU and a GPU, or a third kind, and does not need torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from autofit.device.device import Device


class DeviceKind(ABC):
    """One subclass for each of torch's device types; ``autofit.device.kinds`` has one object of each.

    What needs torch is its class in ``worker/accelerator.py``: how memory is capped and counted, and time is taken.
    """

    name: ClassVar[str]
    """Torch's name of the type."""
    is_host: ClassVar[bool] = False
    """True where it is the machine's own processor, with the machine's own memory."""
    caches_memory: ClassVar[bool] = True
    """True where torch's caching allocator deals out the memory: what it needs depends on all shapes that came before,
    and can be simulated."""
    traced_as: ClassVar[str] = "cuda"
    """The target of a trace whose kernels are closest to its own: ``cpu`` or ``cuda``."""
    environment: ClassVar[Mapping[str, str]] = {}
    """Variables that every training on it has."""
    warm_up_grace_seconds: ClassVar[float] = 20.0
    """Seconds that a first micro-step may take beyond a warm one: kernels are loaded, workspaces are made."""
    round_seconds: ClassVar[float] = 12.0
    """Timed seconds of one round of a finalist."""
    slows_down_when_warm: ClassVar[bool] = True
    """True where a cool device is faster than a warm one, so that rounds have to go on until a step is steady."""
    spare_share: ClassVar[float] = 0.0
    """Share of its memory that what is confirmed has to spare."""

    @abstractmethod
    def find(self, number: int) -> Device | None:
        """The device of this number among the visible ones, not opened; None where the machine has none of the kind.

        Raises UserError where there are some and this one cannot be had.
        """

    def count(self) -> int:
        """Number of the visible devices of the kind that can be told apart."""
        return 0

    def used_bytes(self, index: int) -> int | None:
        """Bytes of the device's memory that are in use, by whoever; None where nothing counts them."""
        return None

    def bytes_of_others(self, device: Device) -> int:
        """Bytes of the device's memory that others hold; 0 where nothing counts them."""
        return 0

    def visible(self, index: int, number: int = 1) -> str:
        """The value of CUDA_VISIBLE_DEVICES under which a process sees this device, the next ones up to ``number``, and
        no other. Raises UserError where there are fewer."""
        return ""

    def context_bytes(self, device: Device) -> int:
        """Bytes of the device's context, outside what the allocator counts."""
        return 0

    def workspace_bytes(self, device: Device) -> int:
        """Bytes of the matrix library's workspaces, inside what the allocator counts."""
        return 0

    def label(self, index: int) -> str:
        """Name of a device, for ``--device`` and for torch: ``cuda:0``."""
        return self.name if self.is_host else f"{self.name}:{index}"

    @property
    def torch_device(self) -> str:
        """The device in a process that sees only this one."""
        return self.label(0)
