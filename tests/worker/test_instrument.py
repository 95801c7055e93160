"""Marks around a training step, and what they tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from autofit.worker.instrument import SkippedSteps


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
