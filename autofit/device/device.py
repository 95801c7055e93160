"""The device a search runs on, and the libraries installed beside it, as plain facts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Device:
    """``kind`` is torch's device type; ``index`` counts the physical devices of that kind.

    ``memory_bytes`` is all the device has. ``compute_capability`` is None where it has no meaning.
    """

    kind: str
    name: str
    memory_bytes: int
    index: int = 0
    compute_capability: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Libraries:
    """Versions by distribution name, what TrainingArguments takes here, and what cannot be had.

    ``missing`` maps a feature (``bitsandbytes``, ``flash_attention_2``) to the sentence that says why, of which those
    in ``not_installed`` say that a package is not there, or too old.
    """

    versions: dict[str, str]
    training_argument_fields: frozenset[str] = frozenset()
    missing: dict[str, str] = field(default_factory=dict)
    not_installed: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class DeviceLoad:
    """Readings of the device's own sensors at one moment. None where it does not say.

    ``others_seconds`` counts up the CPU time that other processes, or other guests of the host, took since the start.
    """

    sm_clock_mhz: int | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None
    throttle_reasons: int | None = None
    others_seconds: float | None = None
