"""Rates that a device reaches in a few seconds of plain work: the yardstick for the predicted time of a step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from autofit.device.kinds import kind_of
from autofit.device.rates import Rates
from autofit.trial.protocol import RatesResult
from autofit.worker.accelerator import Accelerator

REPEATS, LEAST_SECONDS = 7, 0.2
"""For each kind of work, at least: a card needs a while to raise its clock."""
PATIENCE_SECONDS = 0.6
"""At most: a slow device repeats it less often."""
LAYERS = 200
OPERATORS_OF_A_LAYER = 6
"""A product and a factor; in the backward pass another factor, two products and the sum of the weight's gradients."""


def measure_rates(accelerator: Accelerator) -> RatesResult:
    """Matrix products in float32, tf32 and 16 bits, one copy, and many operators on next to nothing."""
    device = torch.device(accelerator.torch_device)
    facts = accelerator.facts()
    is_cpu = kind_of(facts).is_host
    # Large enough to fill the device, small enough that 16 bits on a CPU, the slowest, take a fraction of a second.
    size = 512 if is_cpu else 4096
    capability = facts.compute_capability or (0, 0)
    half = torch.bfloat16 if is_cpu or capability >= (8, 0) else torch.float16
    has_tf32 = not is_cpu and capability >= (8, 0)

    def product(dtype: torch.dtype) -> float:
        first = torch.randn(size, size, device=device).to(dtype)
        second = torch.randn(size, size, device=device).to(dtype)
        return 2 * size**3 / _seconds(accelerator, lambda: torch.mm(first, second))

    allowed_before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        flops_32 = product(torch.float32)
        torch.backends.cuda.matmul.allow_tf32 = has_tf32
        flops_tf32 = product(torch.float32) if has_tf32 else 0.0
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed_before
    # Past every cache.
    source = torch.ones(2**24 if is_cpu else 2**27, device=device)
    target = torch.empty_like(source)
    copy = _seconds(accelerator, lambda: target.copy_(source))
    weight = torch.ones(1, 1, device=device, requires_grad=True)

    def launch_many() -> None:
        """Layers of next to nothing, forward and backward: what a step spends between its operators."""
        little = torch.ones(1, 1, device=device)
        for _ in range(LAYERS):
            little = torch.nn.functional.linear(little, weight).mul(1.0)
        little.sum().backward()
        weight.grad = None

    return RatesResult(
        rates=Rates(
            flops_16=product(half),
            flops_32=flops_32,
            flops_tf32=flops_tf32,
            bytes_per_second=2 * source.numel() * source.element_size() / copy,
            launch_seconds=_seconds(accelerator, launch_many) / (LAYERS * OPERATORS_OF_A_LAYER),
            launches_overlap=not is_cpu,
        )
    )


def _seconds(accelerator: Accelerator, work: Callable[[], object]) -> float:
    """The median of some repeats; the first one loads kernels and does not count."""
    work()
    accelerator.synchronize()
    taken: list[float] = []
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < PATIENCE_SECONDS and (len(taken) < REPEATS or spent < LEAST_SECONDS):
        begin = accelerator.mark()
        work()
        end = accelerator.mark()
        accelerator.synchronize()
        taken.append(accelerator.seconds(begin, end))
    return statistics.median(taken)
