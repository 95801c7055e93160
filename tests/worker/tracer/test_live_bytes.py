"""Traced steps against real steps of the real Trainer on this CPU: bytes alive in every phase."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from autofit.predict.families import Family, pair_for, traceable
from autofit.predict.timeline import StepBuilder
from autofit.predict.trace import Category, StepTrace
from autofit.worker.tracer.batch import trace_request
from benchmarks.prediction.live_bytes import Case, compare, request_of

CASES = (
    Case(architecture="llama"),
    Case(architecture="llama", accumulation=3, checkpointing="every_2nd", precision="bf16"),
    Case(architecture="qwen3", attention="eager", precision="pure_bf16", accumulation=1),
    # Tied embeddings under autocast: their two gradients are added up in place.
    Case(architecture="gpt2", precision="bf16", checkpointing="every_layer"),
    Case(architecture="gemma2", attention="eager"),
    Case(architecture="gpt_neox", accumulation=1),
    Case(architecture="phi3"),
    Case(architecture="qwen3_moe"),
    Case(architecture="modernbert", precision="bf16"),
    Case(architecture="t5", attention="eager"),
    Case(architecture="vit"),
    Case(architecture="bert", lengths=(64, 50, 40, 33)),
    Case(architecture="llama", layout="packed", lengths=(40, 40, 20, 20)),
    Case(architecture="llama", method="lora", precision="bf16"),
    Case(architecture="llama", method="qlora", precision="bf16"),
    Case(architecture="llama", optimizer="adamw_8bit"),
    Case(architecture="llama", optimizer="adafactor"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bytes_alive_are_within_half_a_percent_in_every_phase(case: Case) -> None:
    found = compare(case)
    assert "refusal" not in found, found.get("refusal")
    for phase, error in found["errors"].items():
        assert abs(error) <= 0.005, f"{phase}: {found['predicted'][phase]} for {found['real'][phase]}"


def trace_of(case: Case, **changes: object) -> StepTrace:
    request, _ = request_of(case)
    document = trace_request(msgspec.structs.replace(request, **changes))
    assert document.trace is not None, document.refusal
    return document.trace


@pytest.mark.parametrize(
    "case",
    [
        Case(architecture="llama", precision="bf16"),
        Case(architecture="llama", checkpointing="every_layer"),
        Case(architecture="gpt2", attention="eager"),
        Case(architecture="vit"),
    ],
    ids=lambda case: case.name,
)
def test_two_traces_give_every_block_of_a_third_exactly(case: Case) -> None:
    def with_rows(rows: int) -> StepTrace:
        return trace_of(dataclasses.replace(case, lengths=(64,) * rows))

    few, many, third = with_rows(2), with_rows(4), with_rows(9)
    assert Family.are_alike(few, many)
    family = Family(few, many, inputs_ahead=0)
    assert family.sizes(9).tolist() == list(third.sizes)
    assert family.work(9).flops.tolist() == pytest.approx(list(third.operators.flops))
    assert third.events == few.events


def on_cuda(case: Case, **changes: object) -> StepTrace:
    return trace_of(case, target="cuda", **changes)


@pytest.mark.parametrize("rows", [3, 40])
def test_on_cuda_two_traces_give_a_third_on_either_side_of_what_is_sorted(rows: int) -> None:
    case, length = Case(architecture="llama", precision="bf16"), 128
    pair = pair_for(rows, length, on_cuda=True)
    few, many, third = (on_cuda(dataclasses.replace(case, lengths=(length,) * number)) for number in (*pair, rows))
    assert Family.are_alike(few, many)
    sizes = Family(few, many, inputs_ahead=0, rows=pair).sizes(rows)
    # How many tokens occur at least once is the only thing that does not grow evenly.
    other = [maker for maker, size, true in zip(third.makers, sizes, third.sizes, strict=True) if size != true]
    assert set(other) <= {"aten::embedding_dense_backward"}


def test_for_cuda_the_attention_is_what_torch_would_choose_there() -> None:
    def attention(case: Case, **changes: object) -> set[str]:
        names = on_cuda(case, **changes).operators.names
        return {name.removeprefix("aten::_scaled_dot_product_") for name in names if "scaled_dot" in name}

    half, wide = Case(architecture="gpt2", precision="bf16"), Case(architecture="gpt2")
    assert attention(half) == {"flash_attention", "flash_attention_backward"}
    assert attention(half, compute_capability=(7, 5)) == {"efficient_attention", "efficient_attention_backward"}
    assert attention(wide) == {"efficient_attention", "efficient_attention_backward"}
    padded = dataclasses.replace(half, lengths=(64, 50, 40, 33))
    assert attention(padded) == {"efficient_attention", "efficient_attention_backward"}
    # Heads that share keys in float32: neither kernel takes them, and the whole matrix of scores is kept.
    assert attention(Case(architecture="llama")) == set()


def test_for_cuda_the_optimizers_peaks_are_four_and_five_times_the_parameters() -> None:
    def update_peak(optimizer: str) -> float:
        trace = on_cuda(Case(architecture="llama", optimizer=optimizer, lengths=(8,)))
        from autofit.predict.trace import Phase

        weights = sum(
            size for size, category in zip(trace.sizes, trace.categories, strict=True) if category == Category.WEIGHTS
        )
        return StepBuilder(trace).steady_step(1).phase_peaks()[Phase.UPDATE] / weights

    assert update_peak("adamw_torch_fused") == pytest.approx(4.0, abs=0.01)
    assert update_peak("adamw_torch") == pytest.approx(5.0, abs=0.01)


def test_for_cuda_an_8_bit_optimizer_keeps_two_bytes_and_the_embeddings_moments_in_32_bits() -> None:
    trace = on_cuda(Case(architecture="llama", optimizer="adamw_8bit", lengths=(8,)))
    state = sum(s for s, c in zip(trace.sizes, trace.categories, strict=True) if c == Category.OPTIMIZER_STATE)
    weights = sum(s for s, c in zip(trace.sizes, trace.categories, strict=True) if c == Category.WEIGHTS) / 4
    embeddings = 1000 * 128
    # Norms are small and stay in 32 bits; quantization maps are a little more.
    assert state == pytest.approx((weights - embeddings) * 2.03 + embeddings * 8, rel=0.01)


def test_for_cuda_dropout_keeps_a_byte_and_softmax_takes_one_matrix_more_in_its_backward_pass() -> None:
    case = Case(architecture="bert", attention="eager", accumulation=1)
    here, there = trace_of(case), on_cuda(case)
    assert "aten::native_dropout" in there.operators.names and "aten::native_dropout" not in here.operators.names
    scores = 4 * 4 * 64 * 64 * 4
    kernels = [maker for maker, size in zip(there.makers, there.sizes, strict=True) if size == scores]
    assert "aten::_softmax_backward_data" in kernels


def test_a_trace_says_where_every_block_of_the_peak_is_from() -> None:
    trace = trace_of(Case(architecture="llama", precision="bf16"))
    found = StepBuilder(trace).steady_step(2).peak_by_category()
    for category in (Category.WEIGHTS, Category.GRADIENTS, Category.OPTIMIZER_STATE, Category.ACTIVATIONS):
        assert found[category] > 0
    assert found[Category.LOGITS_AND_LOSS] > 0 and found[Category.INPUTS] > 0
    assert found[Category.AUTOCAST_COPIES] > 0


def test_what_cannot_be_traced_is_refused_with_its_reason_in_a_sentence() -> None:
    request, _ = request_of(Case(architecture="gemma2", attention="eager"))
    unsupported = msgspec.structs.replace(
        request, recipe=dataclasses.replace(request.recipe, model_kwargs={"attn_implementation": "sdpa"})
    )
    document = trace_request(unsupported)
    assert document.trace is None
    assert "does not support an attention implementation" in document.refusal


def test_recipes_are_made_traceable_before_and_not_by_the_tracer() -> None:
    request, recipe = request_of(Case(architecture="llama", precision="bf16"))
    assert request.recipe == traceable(recipe, optimizer="adamw_torch_fused")
