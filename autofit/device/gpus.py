"""GPUs that need not be here: what each has and can do, by the names people and drivers give it.

The facts lie in ``gpus.json``, each card with its sources and what is not verified. Figures are dense, with float32
accumulation, as PyTorch multiplies.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from autofit.device.device import Device
from autofit.device.rates import Rates
from autofit.errors import UserError
from autofit.units import MIB

SEEN_BY_TORCH = 0.977
"""Of what the driver reports, the least that torch was seen to have, where its own figure is not known
(RTX 4070: 12,002 of 12,282 MiB; most cards 0.98 to 0.99)."""
PCIE_BYTES_PER_LANE = {"3.0": 0.985e9, "4.0": 1.969e9, "5.0": 3.938e9}
"""A second, in each direction, by PCI Express's own coding."""
LEAST_NVLINK_OF_ALL = 300
"""GB/s, both directions together, from which on NVLink joins all cards of a host; bridges join two."""
LAUNCH_SECONDS = 6e-6
"""Between two operators, where neither card nor Python is slower: an estimate (5 to 8 us)."""
POWER_LIMITED_UP_TO = 75
"""Watts that a slot gives a card without a cable of its own: T4, L4 and their like."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card. ``memory_bytes`` is what torch can use of it; rates are the published peaks, which a power-limited one
    cannot keep up."""

    name: str
    key: str
    memory_bytes: int
    compute_capability: tuple[int, int]
    rates: Rates
    is_power_limited: bool

    def device(self) -> Device:
        """The card as a search would find it."""
        return Device(
            kind="cuda",
            name=self.name,
            memory_bytes=self.memory_bytes,
            compute_capability=self.compute_capability,
        )


def find_gpu(name: str) -> Gpu:
    """The card called ``name`` by its driver or by people. Raises UserError, with near names, where there is none."""
    by_name = _by_name()
    found = by_name.get(_plain(name))
    if found is not None:
        return found
    near = difflib.get_close_matches(_plain(name), by_name, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(dict.fromkeys(by_name[each].key for each in near))}?" if near else ""
    raise UserError(
        f"'{name}' is not in the catalogue of {len(all_gpus())} GPUs ('autofit plan --list-gpus' shows them).{hint} "
        "For another card give --memory 24GiB."
    )


def published_rates(device: Device) -> Rates | None:
    """Published peaks of a present device; None for one that the catalogue does not have by its driver's name."""
    found = _by_name().get(_plain(device.name))
    return None if found is None else found.rates


@cache
def all_gpus() -> tuple[Gpu, ...]:
    """The whole catalogue."""
    return tuple(map(_gpu, _entries()))


@cache
def _entries() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(Path(__file__).with_name("gpus.json").read_text(encoding="utf-8"))
    return entries


@cache
def _by_name() -> dict[str, Gpu]:
    names: dict[str, Gpu] = {}
    for entry, gpu in zip(_entries(), all_gpus(), strict=True):
        for name in (entry["name"], *entry["aliases"]):
            names.setdefault(_plain(name), gpu)
    return names


def _plain(name: str) -> str:
    """Without case, punctuation and the makers' names."""
    text = re.sub(
        r"\b(nvidia|geforce|tesla|amd|instinct|radeon)\b", " ", name.lower().replace("-", " ").replace("_", " ")
    )
    return " ".join(text.split())


def _gpu(entry: dict[str, Any]) -> Gpu:
    reported = entry["memory_mib_reported"] or entry["memory_gb_nominal"] * 1000**3 / MIB
    usable = entry["torch_total_memory_mib"] or round(reported * SEEN_BY_TORCH)
    numbers = re.fullmatch(r"(\d+)\.(\d+)", entry["compute_capability"])
    half = entry["bf16_tflops"] or entry["fp16_tflops"]
    return Gpu(
        name=entry["name"],
        key=entry["aliases"][0],
        memory_bytes=int(usable) * MIB,
        # AMD's architectures have names; what they support is like compute capability 9.0 here.
        compute_capability=(int(numbers[1]), int(numbers[2])) if numbers else (9, 0),
        rates=Rates(
            flops_16=half * 1e12,
            flops_32=(entry.get("fp32_matrix_tflops") or entry["fp32_tflops"]) * 1e12,
            flops_tf32=(entry["tf32_tflops"] or 0.0) * 1e12,
            bytes_per_second=entry["memory_bandwidth_gb_s"] * 1e9,
            launch_seconds=LAUNCH_SECONDS,
            link_bytes_per_second=_link(entry),
        ),
        is_power_limited=(entry["tdp_w"] or math.inf) <= POWER_LIMITED_UP_TO,
    )


def _link(entry: dict[str, Any]) -> float | None:
    """Bytes a second to any other card of the host: NVLink where it joins them all, else PCI Express."""
    has_slot = re.search(r"pcie|nvl$|mi210$", entry["name"], re.IGNORECASE)
    if not has_slot and (entry["nvlink_gb_s"] or 0) >= LEAST_NVLINK_OF_ALL:
        return float(entry["nvlink_gb_s"]) * 1e9 / 2
    found = re.match(r"PCIe (\d\.\d) x(\d+)", entry["host_link"] or "")
    sharing = re.search(r"shared by its (\d+) GPUs", entry["host_link"] or "")
    lanes = 0.0 if found is None else int(found[2]) / (int(sharing[1]) if sharing else 1)
    return None if found is None else PCIE_BYTES_PER_LANE[found[1]] * lanes
