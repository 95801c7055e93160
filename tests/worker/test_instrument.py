"""Marks around a training step, and what they tell."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch

from autofit.worker.accelerator import Processor
from autofit.worker.instrument import SkippedSteps, StepRecorder, mark_update


def trainer_with(scaler: torch.amp.GradScaler | None) -> Any:
    return SimpleNamespace(accelerator=SimpleNamespace(scaler=scaler, optimizer_step_was_skipped=False))


def test_a_step_that_overflowed_is_seen_though_a_fused_optimizer_was_called() -> None:
    """accelerate's own word stays False here, as it does with torch's fused AdamW."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    skipped = SkippedSteps(trainer_with(scaler))
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight], fused=True)
    seen = []
    for gradient in (torch.inf, 1.0, torch.nan, 1.0, 1.0, 1.0):
        weight.grad = torch.tensor([gradient])
        scaler.scale(torch.ones(1))
        scaler.step(optimizer)
        scaler.update()
        seen.append(skipped())
    assert seen == [True, False, True, False, False, False]


def test_without_loss_scaling_accelerate_is_asked() -> None:
    assert SkippedSteps(trainer_with(None))() is False


class Engine:
    """DeepSpeed's, as far as marks are concerned: its ``step`` runs in the last micro-batch's backward."""

    is_last = False

    def is_gradient_accumulation_boundary(self) -> bool:
        return self.is_last

    def step(self) -> None:
        time.sleep(0.03 if self.is_last else 0)


def test_an_update_that_an_engine_makes_within_backward_is_no_part_of_a_micro_step() -> None:
    recorder = StepRecorder(Processor(), micro_steps=2, most_steps=2)
    engine: Any = Engine()
    mark_update(engine, recorder)
    recorder.begin()
    for _ in range(2):
        recorder.fetch_begun()
        recorder.fetched()
        for engine.is_last in (False, True):
            engine.step()
            recorder.micro_step_ended(torch.ones(()))
        recorder.step_ended()
    for step in recorder.steps():
        assert len(step.micro_steps) == 2
        assert step.update > 0.03 > 5 * sum(step.micro_steps)
