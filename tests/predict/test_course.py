"""Steps of different micro-batches on the simulated allocator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autofit.predict.caching_allocator import CachingAllocator
from autofit.predict.course import Course, MicroStep, numbers_in
from autofit.predict.timeline import StepBuilder
from autofit.predict.trace import Category, Phase
from autofit.units import MIB
from tests.predict.made_up import GRADIENT, INPUT, LOSS, made_up_trace, of_several_processes, with_one_between

BUILDER = StepBuilder(made_up_trace())


def micro_step(rows: int, builder: StepBuilder = BUILDER) -> MicroStep:
    return MicroStep(builder, np.array(made_up_trace(rows).sizes) * MIB)


def allocator_after(steps: Sequence[Sequence[int]], *, workspaces: int = 0, is_paged: bool = False) -> CachingAllocator:
    allocator = CachingAllocator()
    course = Course(micro_step(2), allocator, is_paged=is_paged, workspaces=workspaces)
    for rows in steps:
        course.step([micro_step(number) for number in rows])
    return allocator


def test_steps_of_one_shape_allocate_at_most_what_the_timeline_has_alive() -> None:
    for accumulation in (1, 2):
        timeline = StepBuilder(made_up_trace()).steady_step(accumulation)
        allocator = allocator_after([[2] * accumulation] * 3)
        assert allocator.peaks.allocated == timeline.peak_bytes * MIB


def test_between_steps_weights_state_and_the_last_inputs_are_alive_alone() -> None:
    for steps in (1, 2, 5):
        assert allocator_after([[2, 3]] * steps).allocated == (1000 + 2000 + 2 * 8 + 3 * 8) * MIB


def test_what_is_taken_and_freed_before_the_step_leaves_a_segment_and_is_alive_in_no_step() -> None:
    trace = made_up_trace()
    passing = len(trace.sizes)
    events = (trace.events[0], passing + 1, -(passing + 1), *trace.events[1:])
    categories = (*trace.categories, Category.WEIGHTS)
    with_it = replace(
        trace,
        sizes=(*trace.sizes, 5000),
        categories=categories,
        makers=(*trace.makers, "aten::cat"),
        events=events,
        phase_ends=tuple(end + 2 for end in trace.phase_ends),
        gradient_events={GRADIENT: trace.gradient_events[GRADIENT] + 2},
    )
    builder = StepBuilder(with_it)
    assert builder.steady_step(1).peak_bytes == StepBuilder(trace).steady_step(1).peak_bytes
    allocator = CachingAllocator()
    step = MicroStep(builder, np.array(with_it.sizes) * MIB)
    course = Course(step, allocator, is_paged=False)
    assert allocator.allocated == 1000 * MIB and allocator.reserved == 6000 * MIB
    course.step([step])
    assert allocator.peaks.reserved == 6000 * MIB


def test_blocks_of_another_stream_have_segments_of_their_own() -> None:
    reserved = []
    for stream_of in ({}, {LOSS: 1}):
        builder = StepBuilder(replace(made_up_trace(), stream_of=stream_of))
        allocator = CachingAllocator()
        course = Course(micro_step(2, builder), allocator, is_paged=False)
        for _ in range(3):
            course.step([micro_step(2, builder)])
        reserved.append(allocator.peaks.reserved)
    assert reserved[1] > reserved[0]


def test_a_loss_that_outlives_the_update_is_freed_before_the_next_step() -> None:
    trace = made_up_trace()
    kept = tuple(event for event in trace.events if event != -(LOSS + 1))
    allocator = CachingAllocator()
    builder = StepBuilder(replace(trace, events=kept, phase_ends=(1, 2, 4, 8, 12, 12)))
    course = Course(micro_step(2, builder), allocator, is_paged=False)
    for _ in range(3):
        course.step([micro_step(2, builder)])
    assert allocator.allocated == (1000 + 2000 + 2 * 8 + 4) * MIB


def test_a_paged_state_is_not_the_allocators() -> None:
    assert allocator_after([[2]] * 3, is_paged=True).allocated == (1000 + 2 * 8) * MIB


def test_both_threads_workspaces_are_taken_once() -> None:
    with_them, without = (allocator_after([[2, 2]] * 3, workspaces=each).allocated for each in (64 * MIB, 0))
    assert with_them - without == 64 * MIB


def test_other_shapes_than_the_worst_make_the_allocator_reserve_more_than_the_worst_alone() -> None:
    worst = allocator_after([[8, 8]] * 4).reserved
    varied = allocator_after([[3, 5], [7, 2], [5, 6], [8, 8]])
    assert varied.peaks.allocated <= allocator_after([[8, 8]] * 4).peaks.allocated
    assert varied.reserved > worst


def test_micro_batches_that_are_not_run_have_their_inputs_held() -> None:
    allocator = CachingAllocator()
    course = Course(micro_step(2), allocator, is_paged=False)
    course.step([micro_step(2)] * 2, accumulation=6)
    assert allocator.allocated == (1000 + 2000 + 6 * 16) * MIB


def test_an_evaluation_comes_after_the_last_step_and_leaves_nothing() -> None:
    trace = made_up_trace()

    evaluated = replace(
        trace,
        sizes=(*trace.sizes, 9000),
        categories=(*trace.categories, trace.categories[2]),
        makers=(*trace.makers, "aten::mm"),
        events=(*trace.events, len(trace.sizes) + 1, -(len(trace.sizes) + 1)),
        phase_ends=(*trace.phase_ends[: Phase.EVALUATION], len(trace.events) + 2),
    )
    allocator = CachingAllocator()
    only = MicroStep(StepBuilder(evaluated), np.array(evaluated.sizes) * MIB)
    course = Course(only, allocator, is_paged=False)
    course.step([only])
    before = allocator.allocated
    course.evaluation()
    assert allocator.allocated == before
    assert allocator.peaks.allocated == before + 9000 * MIB


def test_of_several_processes_the_first_micro_step_those_between_and_the_last_are_played() -> None:
    for accumulation, trace in ((2, of_several_processes()), (3, with_one_between()), (5, with_one_between())):
        only = MicroStep(StepBuilder(trace), np.array(trace.sizes) * MIB)
        allocator = CachingAllocator()
        course = Course(only, allocator, is_paged=False)
        for _ in range(3):
            course.step([only] * accumulation)
        assert allocator.peaks.allocated == StepBuilder(trace).steady_step(accumulation).peak_bytes * MIB
        assert allocator.allocated == (1000 + 2000 + accumulation * 16) * MIB


def with_mask() -> MicroStep:
    """The step with a block more, numbered before the others, from the forward pass to the loss's end."""
    trace, mask = made_up_trace(), INPUT
    numbers = [each + (each >= mask) for each in range(len(trace.sizes))]
    events = [numbers[abs(event) - 1] + 1 if event > 0 else -(numbers[abs(event) - 1] + 1) for event in trace.events]
    # Where the input was numbered 1 the mask is now, and it is taken after it.
    masked = replace(
        trace,
        sizes=(trace.sizes[0], 700, *trace.sizes[1:]),
        categories=(trace.categories[0], Category.TEMPORARIES, *trace.categories[1:]),
        makers=(trace.makers[0], "aten::mul", *trace.makers[1:]),
        events=(*events[:2], mask + 1, *events[2:8], -(mask + 1), *events[8:]),
        phase_ends=(1, 2, 5, 10, 15, 15),
        gradient_of={0: numbers[GRADIENT]},
        gradient_events={numbers[GRADIENT]: 7},
    )
    return MicroStep(StepBuilder(masked), np.array(masked.sizes) * MIB)


def test_micro_batches_of_two_traces_share_weights_gradients_and_state() -> None:
    plain, masked = micro_step(2), with_mask()
    alone = {}
    for own in (plain, masked):
        allocator = CachingAllocator()
        course = Course(own, allocator, is_paged=False)
        for _ in range(3):
            course.step([own, own])
        alone[own.builder] = allocator.peaks.allocated
    for first, second in ((plain, masked), (masked, plain)):
        for steps in (
            [[first, second]] * 3,
            [[second, first]] * 3,
            [[first, first], [second, second], [second, first]],
        ):
            allocator = CachingAllocator()
            course = Course(first, allocator, is_paged=False)
            for step in steps:
                course.step(step)
            assert allocator.allocated == (1000 + 2000 + 2 * 16) * MIB
            assert min(alone.values()) <= allocator.peaks.allocated <= max(alone.values())


def test_traces_of_other_weights_are_not_paired() -> None:
    plain, masked = micro_step(2).builder, with_mask().builder
    assert numbers_in(plain, masked) is not None and numbers_in(masked, plain) is not None
    assert numbers_in(plain, StepBuilder(replace(made_up_trace(), gradient_of={}))) is None
    fetched = replace(made_up_trace(), phase_ends=(1, 1, 4, 8, 13, 13))
    assert numbers_in(plain, StepBuilder(fetched)) is None
