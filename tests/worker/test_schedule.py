"""Steps of a trial, driven without a Trainer, by loaders that fetch ahead."""

from __future__ import annotations

import pytest
import torch

from autofit.job.lengths import SampleLengths
from autofit.knobs.recipe import recipe_for
from autofit.trial.protocol import MeasuringPlan
from autofit.worker.accelerator import Processor
from autofit.worker.batches import StepBatches
from autofit.worker.instrument import StepRecorder
from autofit.worker.schedule import Schedule
from tests.doubles import make_config, make_situation


@pytest.mark.parametrize("ahead", [1, 2, 16, 200])
def test_every_shape_is_timed_however_many_micro_batches_a_loader_fetches_ahead(ahead: int) -> None:
    lengths = SampleLengths.of([32] * 40 + [64] * 20 + [128] * 4)
    situation = make_situation(effective_batch=8, lengths=lengths)
    recipe = recipe_for(make_config(micro_batch_size=4, accumulation_steps=2), situation)
    batches = StepBatches(recipe, situation.workload, 0)
    accelerator = Processor()
    plan = MeasuringPlan(patience_seconds=0.01)
    schedule = Schedule(plan, accelerator, batches, batches.to_time(), 2, note=lambda phase: None)
    recorder = StepRecorder(accelerator, micro_steps=schedule.micro_steps, most_steps=1000)
    schedule.follow(recorder, lambda: False)
    drawn, fetched = schedule.micro_batches(), 0
    recorder.begin()
    for step in range(1000):
        while fetched < (step + 1) * schedule.micro_steps + ahead:
            next(drawn)
            fetched += 1
        recorder.fetch_begun()
        recorder.fetched()
        for _ in range(schedule.micro_steps):
            recorder.micro_step_ended(torch.zeros(()))
        recorder.step_ended()
        if schedule.finished():
            break
    timed = {window.shape for window in schedule.windows if window.shape is not None}
    assert len(schedule.shape_shares) > 1
    assert timed == {shape for shape, _ in schedule.shape_shares}
    assert all(window.steps for window in schedule.windows)
