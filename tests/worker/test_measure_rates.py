"""The rates of this machine's CPU."""

from __future__ import annotations

import time

from autofit.worker.accelerator import accelerator_for
from autofit.worker.measure_rates import _seconds, measure_rates


def test_a_cpu_multiplies_copies_and_launches() -> None:
    rates = measure_rates(accelerator_for("cpu")).rates
    assert rates.flops_32 > 1e9 and rates.flops_16 > 0
    assert rates.bytes_per_second > 1e8
    assert 0 < rates.launch_seconds < 1e-2
    assert rates.flops_tf32 == 0 and not rates.launches_overlap


def test_fast_work_is_repeated_until_a_clock_has_risen_and_slow_work_is_not() -> None:
    def repeats(seconds: float) -> int:
        calls: list[float] = []
        accelerator = accelerator_for("cpu")
        _seconds(accelerator, lambda: (calls.append(seconds), time.sleep(seconds)))
        return len(calls) - 1

    assert repeats(0.001) > 7
    assert repeats(0.7) == 1
