"""Blocks that CUDA's kernels take for themselves, by figures that torch's own allocator gave out on the null GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autofit.predict.timeline import StepBuilder
from autofit.predict.trace import StepTrace
from autofit.worker.tracer.batch import trace_request
from autofit.worker.tracer.cuda_kernels import sum_blocks
from tests.worker.tracer.test_batch import request_for

A100 = 108 * 2048


@pytest.mark.parametrize(
    ("rows", "outputs", "blocks"),
    [(1576, 768, [9_830_400, 24]), (1576, 3072, [39_321_600, 96]), (2048, 512, [8_388_608, 16]), (788, 768, [])],
)
def test_a_sum_over_many_rows_meets_in_a_buffer(rows: int, outputs: int, blocks: list[int]) -> None:
    assert sum_blocks(rows, outputs, A100) == blocks


def test_a_smaller_card_splits_a_wide_sum_less() -> None:
    (on_t4, _), (on_a100, _) = (sum_blocks(1576, 3072, threads) for threads in (40 * 1024, A100))
    assert on_t4 < on_a100


def traced(name: str, *, rows: int, **arguments: object) -> StepTrace:
    request = request_for(name, rows=rows)
    recipe = replace(request.recipe, training_arguments={**request.recipe.training_arguments, **arguments})
    document = trace_request(replace_request(request, recipe))
    assert document.trace is not None, document.refusal
    return document.trace


def replace_request(request, recipe):  # type: ignore[no-untyped-def]
    import msgspec

    return msgspec.structs.replace(request, recipe=recipe)


def test_the_gradient_of_a_bias_takes_the_buffer_in_the_backward_pass() -> None:
    trace = traced("google/vit-base-patch16-224", rows=8)
    sizes = [size for size, maker in zip(trace.sizes, trace.makers, strict=True) if maker == "aten::sum"]
    assert sizes.count(9_830_400) == 60 and sizes.count(39_321_600) == 12


def test_activations_that_are_offloaded_leave_the_device_and_come_back(tiny_model: object) -> None:
    def peak(**settings: object) -> int:
        checkpointing = {"activation_checkpointing": True, "activation_checkpointing_kwargs": settings}
        trace = traced(str(tiny_model), rows=64, **checkpointing)
        return StepBuilder(trace).steady_step(1).peak_by_category()[4]

    kept, offloaded = peak(use_reentrant=False), peak(use_reentrant=False, offload=True)
    assert offloaded < kept
