"""The rates of this machine's CPU."""

from __future__ import annotations

from autofit.trial.accelerator import accelerator_for
from autofit.trial.measure_rates import measure_rates


def test_a_cpu_multiplies_copies_and_launches() -> None:
    rates = measure_rates(accelerator_for("cpu")).rates
    assert rates.flops_32 > 1e9 and rates.flops_16 > 0
    assert rates.bytes_per_second > 1e8
    assert 0 < rates.launch_seconds < 1e-2
    assert rates.flops_tf32 == 0 and not rates.launches_overlap
