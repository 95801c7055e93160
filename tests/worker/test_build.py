"""Models of trials: where they begin, and with what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from autofit.trial.protocol import MeasuringPlan, MemoryPlan, TrialJob
from autofit.worker.build import build_trial_model
from benchmarks.prediction.live_bytes import ARCHITECTURES, Case, request_of


def shared_job(case: Case, device: str) -> TrialJob:
    """A trial of two processes that cut the model into parts."""
    request, recipe = request_of(case)
    arguments = {**recipe.training_arguments, "fsdp": True, "fsdp_config": {"version": 2}}
    return TrialJob(
        model=request.model,
        workload=request.workload,
        recipe=replace(recipe, training_arguments=arguments, processes=2),
        device=device,
        memory=MemoryPlan(own_bytes=1),
        plan=MeasuringPlan(),
    )


def tensors_of(named: Any) -> dict[str, tuple[torch.Size, torch.dtype, str]]:
    return {name: (tensor.shape, tensor.dtype, tensor.device.type) for name, tensor in named}


CASES = [
    *(Case(architecture=name, attention="eager") for name in ARCHITECTURES),
    Case(architecture="llama", method="lora"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_model_that_is_cut_into_parts_begins_on_the_host_as_it_would_on_a_device(case: Case) -> None:
    # The card is none of this machine's: nothing may be put there.
    ours, usual = (build_trial_model(shared_job(case, device)) for device in ("cuda:0", "cpu"))
    assert tensors_of(ours.named_parameters()) == tensors_of(usual.named_parameters())
    assert {name for name, weight in ours.named_parameters() if weight.requires_grad} == {
        name for name, weight in usual.named_parameters() if weight.requires_grad
    }
    # Frequencies and position numbers are in no file of weights.
    expected = dict(usual.named_buffers())
    found = dict(ours.named_buffers())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(weight.isfinite().all() for weight in ours.parameters())
