"""Cards to plan for, as people name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autofit.device.device import Device
from autofit.device.gpus import all_gpus, find_gpu
from autofit.errors import UserError
from autofit.planning.result import Card
from autofit.units import parse_bytes


def cards_of(gpus: Sequence[str], memory: str | int | None, prices: Mapping[str, float]) -> list[Card]:
    """Cards by their names in the catalogue (or ``all``), or one of ``memory`` bytes.

    Raises UserError without any, and for the price of one that is not among them.
    """
    if not gpus and memory is None:
        raise UserError("Say for which card: --gpu rtx-4090 (or all), or --memory 24GiB for one that is not listed.")
    found = list(all_gpus()) if "all" in gpus else [find_gpu(name) for name in gpus]
    priced = {find_gpu(name).name: price for name, price in prices.items()}
    other = next((name for name in prices if find_gpu(name) not in found), None)
    if other is not None:
        raise UserError(f"--price names {other}, for which nothing is planned: add --gpu {other}.")
    cards = [
        Card(
            key=gpu.key,
            device=gpu.device(),
            rates=gpu.rates,
            price_per_hour=priced.get(gpu.name),
            is_power_limited=gpu.is_power_limited,
        )
        for gpu in found
    ]
    if memory is not None:
        size = parse_bytes(memory) if isinstance(memory, str) else memory
        # Any card of today's: what torch chooses is the same from compute capability 8.0 on.
        device = Device(kind="cuda", name="another card", memory_bytes=size, compute_capability=(8, 0))
        cards.append(Card(key=f"{memory}", device=device, rates=None))
    return cards
