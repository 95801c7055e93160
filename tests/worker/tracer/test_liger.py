"""Liger's kernels in a trace, where liger-kernel and Triton are installed."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import torch

from autofit.predict.timeline import StepBuilder
from autofit.predict.trace import Category, StepTrace
from autofit.worker.tracer.batch import trace_request
from tests.worker.tracer.test_batch import request_for

pytest.importorskip("liger_kernel")
pytest.importorskip("triton")
MODEL = "HuggingFaceTB/SmolLM2-135M"


def traced(*, uses_liger: bool) -> StepTrace:
    request = request_for(MODEL, rows=4, length=512)
    arguments = {**request.recipe.training_arguments, "use_liger_kernel": uses_liger}
    document = trace_request(
        msgspec.structs.replace(request, recipe=replace(request.recipe, training_arguments=arguments))
    )
    assert document.trace is not None, document.refusal
    return document.trace


def test_the_logits_are_made_in_pieces_and_what_follows_in_the_process_is_as_it_was() -> None:
    before, told, initialise = traced(uses_liger=False), torch.tensor, torch.cuda._lazy_init
    with_it = traced(uses_liger=True)
    assert traced(uses_liger=False) == before
    assert torch.tensor is told and torch.cuda._lazy_init is initialise
    peaks = [StepBuilder(trace).steady_step(4) for trace in (before, with_it)]
    logits = [peak.peak_by_category()[Category.LOGITS_AND_LOSS] for peak in peaks]
    assert peaks[1].peak_bytes < 0.8 * peaks[0].peak_bytes and logits[1] < logits[0] / 2


def test_its_kernels_are_operators_that_move_their_arguments() -> None:
    operators = traced(uses_liger=True).operators
    kernels = [place for place, name in enumerate(operators.names) if "::" not in name]
    assert len(kernels) > 60 and all(operators.moved_bytes[place] > 0 for place in kernels)
