"""Blocks that CUDA's kernels take for themselves, by figures that torch's own allocator gave out on the null GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
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


def traced(name: str, *, rows: int, attention: str = "sdpa", **arguments: object) -> StepTrace:
    request = request_for(name, rows=rows)
    kept = request.recipe
    recipe = replace(
        kept,
        training_arguments={**kept.training_arguments, **arguments},
        model_kwargs={**kept.model_kwargs, "attn_implementation": attention},
    )
    document = trace_request(msgspec.structs.replace(request, recipe=recipe))
    assert document.trace is not None, document.refusal
    return document.trace


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


def test_a_dropouts_mask_is_taken_before_its_output() -> None:
    trace = traced("google-t5/t5-small", rows=8)
    taken = [event - 1 for event in trace.events if event > 0]
    of_dropout = [trace.sizes[block] for block in taken if trace.makers[block] == "aten::native_dropout"]
    masks, outputs = of_dropout[::2], of_dropout[1::2]
    assert masks and all(output in (2 * mask, 4 * mask) for mask, output in zip(masks, outputs, strict=True))


@pytest.mark.parametrize(("heads", "repeats"), [(6, True), (4, False)])
def test_flex_attention_keeps_keys_for_every_head_where_heads_are_no_power_of_two(
    heads: int, repeats: bool, tiny_model: Path, tmp_path: Path
) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    config |= {"num_attention_heads": heads, "num_key_value_heads": heads // 2, "hidden_size": heads * 16}
    (tmp_path / "config.json").write_text(json.dumps(config | {"head_dim": 16}))

    def peak(attention: str) -> int:
        return StepBuilder(traced(str(tmp_path), rows=64, attention=attention)).steady_step(1).peak_bytes

    assert (peak("flex_attention") > peak("flash_attention_2")) is repeats
