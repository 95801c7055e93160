"""Steps of a trial, driven without a Trainer, by loaders that fetch ahead."""

from __future__ import annotations

import pytest
import torch

from autofit.job.lengths import SampleLengths
from autofit.knobs.recipe import recipe_for
from autofit.trial.protocol import MeasuringPlan
from autofit.worker.accelerator import Processor
from autofit.worker.batches import MicroBatch, StepBatches
from autofit.worker.instrument import StepRecorder
from autofit.worker.schedule import Schedule
from autofit.worker.step_planner import StepPlanner
from tests.doubles import make_config, make_situation

PLAN = MeasuringPlan(patience_seconds=0.01)


def driven(steps: StepPlanner, ahead: int) -> list[list[MicroBatch]]:
    """The micro-batches of every step until there are enough, drawn by a loader that fetches so many ahead."""
    accelerator = Processor()
    recorder = StepRecorder(accelerator, micro_steps=steps.micro_steps, most_steps=1000)
    schedule = Schedule(PLAN, steps, recorder, accelerator, step_was_skipped=lambda: False, note=lambda phase: None)
    drawn, fetched, ran = steps.micro_batches(), 0, []
    recorder.begin()
    for step in range(1000):
        while fetched < (step + 1) * steps.micro_steps + ahead:
            next(drawn)
            fetched += 1
        ran.append(steps.micro_batches_now())
        recorder.fetch_begun()
        recorder.fetched()
        for _ in range(steps.micro_steps):
            recorder.micro_step_ended(torch.zeros(()))
        recorder.step_ended()
        if schedule.finished():
            break
    return ran


def planned(lengths: list[int], layout: str = "dynamic_padding") -> tuple[StepPlanner, StepBatches]:
    situation = make_situation(effective_batch=8, lengths=SampleLengths.of(lengths))
    recipe = recipe_for(make_config(micro_batch_size=4, accumulation_steps=2, batch_layout=layout), situation)
    batches = StepBatches(recipe, situation.workload, 0)
    return StepPlanner(PLAN, batches, batches.to_time(), 2, forgets_kernels=False), batches


@pytest.mark.parametrize("ahead", [1, 2, 16, 200])
def test_every_shape_is_timed_however_many_micro_batches_a_loader_fetches_ahead(ahead: int) -> None:
    steps, _ = planned([32] * 40 + [64] * 20 + [128] * 4)
    driven(steps, ahead)
    windows = steps.progress.windows
    assert len(steps.shape_shares) > 1
    assert {window.shape for window in windows if window.shape is not None} == {
        shape for shape, _ in steps.shape_shares
    }
    assert all(window.steps for window in windows)


@pytest.mark.parametrize("layout", ["dynamic_padding", "fixed_padding"])
def test_the_longest_samples_run_with_and_without_padding_once_there_is_an_optimizer_state(layout: str) -> None:
    steps, batches = planned([16] * 8 + [64] * 56, layout)
    full, padded = batches.worst
    ran = driven(steps, ahead=1)
    assert [step[0] for step in ran[:2]] == [full, padded]
    for worst in (full, padded):
        kind = batches.filled_shape(worst)
        assert any(batches.filled_shape(micro_batch) == kind for step in ran[2:] for micro_batch in step)


def test_of_one_shapes_micro_batches_those_are_timed_that_are_as_full_as_most() -> None:
    for lengths, is_full in (([16] * 4 + [64] * 60, True), ([16] * 40 + [64] * 24, False)):
        _, batches = planned(lengths, "fixed_padding")
        ((timed, _),) = batches.to_time()
        assert batches.is_full(timed) is is_full
