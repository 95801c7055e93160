"""Predicted seconds: the longer of arithmetic and traffic, at least the launches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autofit.device.rates import Rates
from autofit.predict.families import Family
from autofit.predict.step_time import Efficiency, StepClock, Work, WorkShares, exchange_seconds
from tests.predict.made_up import made_up_trace, of_several_processes, with_one_between

RATES = Rates(flops_16=1000.0, flops_32=100.0, flops_tf32=500.0, bytes_per_second=10.0, launch_seconds=0.0)
ALL = Efficiency(products=1.0, attention=1.0, traffic=1.0)


def work(**changes: object) -> Work:
    """A product of 2000 FLOP, an operator that moves 30 bytes, an update that moves 50."""
    plain = Work(
        flops=np.array([2000.0, 0.0, 0.0]),
        moved_bytes=np.array([1.0, 30.0, 50.0]),
        bits=np.array([16, 0, 0]),
        is_quadratic=np.array([False, False, False]),
        is_update=np.array([False, False, True]),
    )
    return replace(plain, **changes)


def test_an_operator_takes_the_longer_of_its_arithmetic_and_its_traffic() -> None:
    assert StepClock(RATES).micro_step_and_update(work(), ALL) == (2.0 + 3.0, 5.0)


def test_the_update_is_paid_once_a_step() -> None:
    assert StepClock(RATES).step(work(), ALL, 4) == 4 * 5.0 + 5.0


def test_precision_decides_the_rate() -> None:
    wide = work(bits=np.array([32, 0, 0]))
    assert StepClock(RATES).micro_step_and_update(wide, ALL)[0] == 20.0 + 3.0
    assert StepClock(RATES, tf32=True).micro_step_and_update(wide, ALL)[0] == 4.0 + 3.0


def test_half_of_a_causal_square_is_computed_and_shorter_samples_cost_its_square() -> None:
    square = work(is_quadratic=np.array([True, False, False]))
    assert StepClock(RATES, causal=True).micro_step_and_update(square, ALL)[0] == 1.0 + 3.0
    assert StepClock(RATES, causal=False).micro_step_and_update(square, ALL)[0] == 2.0 + 3.0
    shares = WorkShares(length=0.5, scores=0.25)
    half = StepClock(RATES, causal=False, shares=shares).micro_step_and_update(square, ALL)
    assert half == (0.5 + 1.5, 5.0)


def test_fused_attention_reaches_another_part_of_the_arithmetic_than_products() -> None:
    square = work(is_quadratic=np.array([True, False, False]))
    half = replace(ALL, attention=0.5)
    assert StepClock(RATES, causal=False).micro_step_and_update(square, half)[0] == 4.0 + 3.0
    assert StepClock(RATES).micro_step_and_update(work(), half)[0] == 2.0 + 3.0


def test_a_host_that_is_slower_than_the_card_decides() -> None:
    slow = replace(ALL, launch_seconds=10.0)
    assert StepClock(RATES).micro_step_and_update(work(), slow) == (20.0, 10.0)


def test_a_step_is_never_faster_than_its_launches() -> None:
    slow = replace(RATES, launch_seconds=10.0)
    assert StepClock(slow).micro_step_and_update(work(), ALL) == (20.0, 10.0)


def test_where_launches_do_not_overlap_each_is_waited_for() -> None:
    waits = replace(RATES, launch_seconds=10.0, launches_overlap=False)
    assert StepClock(waits).micro_step_and_update(work(), ALL) == (20.0 + 5.0, 10.0 + 5.0)


def test_what_the_parts_of_a_step_take_adds_up_to_the_step() -> None:
    slow_host = replace(RATES, launch_seconds=4.0)
    for rates in (RATES, slow_host, replace(slow_host, launches_overlap=False)):
        clock = StepClock(rates)
        parts = clock.parts(work(), ALL, 4)
        assert sum(parts.values()) == pytest.approx(clock.step(work(), ALL, 4))
    parts = StepClock(RATES).parts(work(is_quadratic=np.array([True, False, False])), ALL, 4)
    assert parts == {
        "attention": 4.0,
        "matrix_products": 0.0,
        "other_operators": 12.0,
        "update": 5.0,
        "launches": 0.0,
    }
    assert StepClock(slow_host).parts(work(), ALL, 4)["launches"] == 4 * 3.0


def test_work_of_a_step_counts_every_micro_step_and_one_update() -> None:
    amounts = StepClock(RATES).amounts(work(), 4)
    assert amounts.flops == 4 * 2000.0
    assert amounts.moved_bytes == 4 * 31.0 + 50.0
    assert amounts.arithmetic_seconds == 4 * 2.0
    assert amounts.traffic_seconds == pytest.approx(17.4)


def test_an_exchange_brings_each_process_the_parts_of_the_others() -> None:
    assert exchange_seconds(8 * 10**9, 8, 100e9) == pytest.approx(7e9 / 80e9)
    assert exchange_seconds(8 * 10**9, 1, 100e9) == 0


def test_what_processes_exchange_is_gathered_in_every_micro_step_and_reduced_in_the_last() -> None:
    family = Family(of_several_processes(), None, inputs_ahead=0)
    assert family.exchanged_bytes(2) == 250
    longer = Family(with_one_between(), None, inputs_ahead=0)
    assert [longer.exchanged_bytes(accumulation) for accumulation in (3, 5)] == [350, 550]
    assert Family(made_up_trace(), None, inputs_ahead=0).exchanged_bytes(4) == 0
