"""Predictions from made-up traces: verdicts, categories, calibration, what cannot be predicted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from autofit.device.cuda import CONTEXT, CUBLAS_THREADS, CUBLAS_WORKSPACE_HOPPER
from autofit.device.rates import Rates
from autofit.job.lengths import SampleLengths
from autofit.job.models import ModelSource
from autofit.job.situation import Situation
from autofit.job.workload import Workload
from autofit.knobs.recipe import Recipe, recipe_for
from autofit.predict.micro_batches import CannotPredictError, MicroBatches
from autofit.predict.needs import Needs
from autofit.predict.predictor import Predictor
from autofit.predict.step_time import OF_PUBLISHED_PEAKS, Efficiency
from autofit.predict.trace import Category, StepTrace
from autofit.predict.trace_request import TraceDocument, TraceRequest
from autofit.study.prediction import Verdict
from autofit.units import GIB, MIB
from autofit.worker.batches import StepBatches
from tests.doubles import make_config, make_situation
from tests.predict.made_up import ACTIVATION, GRADIENT, made_up_trace

MODEL = ModelSource(name="some/llama", origin="folder", config={"model_type": "llama"})
RATES = Rates(flops_16=1e6, flops_32=1e6, bytes_per_second=1e6, launch_seconds=0.0)


class MadeUpTraces:
    """Answers requests with the step written by hand; ``scale`` makes its blocks as large as a card's."""

    def __init__(self, scale: int = MIB) -> None:
        self.scale = scale
        self.asked: list[TraceRequest] = []
        self.refusal = ""
        self.has_shapes = True
        self.lost: set[int] = set()
        self.unlike = False

    def micro_batches(
        self, model: ModelSource, workload: Workload, layouts: Sequence[Recipe]
    ) -> list[MicroBatches] | None:
        return [StepBatches(layout, workload, 0).shapes() for layout in layouts] if self.has_shapes else None

    def traces(self, requests: Sequence[TraceRequest]) -> list[TraceDocument]:
        self.asked += requests
        if self.refusal:
            return [TraceDocument(trace=None, refusal=self.refusal)] * len(requests)
        return [
            TraceDocument(trace=None, refusal="lost")
            if request.micro_batch[0] in self.lost
            else TraceDocument(trace=replace(self._trace(len(request.micro_batch)), length=request.micro_batch[0]))
            for request in requests
        ]

    def _trace(self, rows: int) -> StepTrace:
        trace = made_up_trace(rows)
        categories = tuple(reversed(trace.categories)) if self.unlike and rows == 4 else trace.categories
        return replace(trace, sizes=tuple(size * self.scale for size in trace.sizes), categories=categories)


def needs_of(situation: Situation, traces: MadeUpTraces) -> Needs:
    return Needs(situation, MODEL, traces)


def predictor_of(situation: Situation, traces: MadeUpTraces, efficiency: Efficiency = OF_PUBLISHED_PEAKS) -> Predictor:
    return Predictor(
        needs_of(situation, traces),
        situation,
        rates=RATES,
        efficiency=efficiency,
    )


def card(gibibytes: float, **changes: object) -> Situation:
    return make_situation(
        kind="cuda", capability=(9, 0), memory_bytes=int(gibibytes * GIB), headroom=0.0, **changes
    )  # fmt: skip


def test_categories_with_the_fixed_costs_add_up_to_the_total() -> None:
    prediction = predictor_of(card(80), MadeUpTraces()).predict(make_config())
    assert sum(prediction.bytes_by_category.values()) == prediction.total_bytes
    assert prediction.bytes_by_category["context"] == CONTEXT
    assert prediction.bytes_by_category["workspaces"] == CUBLAS_THREADS * CUBLAS_WORKSPACE_HOPPER
    assert prediction.live_bytes <= prediction.certain_bytes <= prediction.total_bytes


def test_a_configuration_is_said_not_to_fit_only_where_what_is_alive_exceeds_the_limit() -> None:
    traces = MadeUpTraces()
    certain = predictor_of(card(80), traces).predict(make_config()).certain_bytes / GIB
    assert predictor_of(card(certain * 0.999), traces).predict(make_config()).verdict is Verdict.NO
    assert predictor_of(card(certain * 1.001), traces).predict(make_config()).verdict is Verdict.BORDERLINE
    assert predictor_of(card(certain * 2), traces).predict(make_config()).verdict is Verdict.FITS


def test_a_rebalanced_micro_batch_needs_what_the_samplers_own_worst_one_does() -> None:
    lengths = SampleLengths.of([2, 16] * 160)
    config = make_config(batch_layout="batch_rebalance", micro_batch_size=4, accumulation_steps=8)
    situation = card(80, lengths=lengths)
    worst, *_ = StepBatches(recipe_for(config, situation), situation.workload, 0).shapes().worst
    assert worst.rows > 4 and worst.length == 16
    need = needs_of(situation, MadeUpTraces(scale=1)).of(config)
    assert need.worst.sizes[ACTIVATION] == 100 * worst.rows


def test_shorter_samples_are_traced_once_more_where_lengths_vary() -> None:
    traces = MadeUpTraces()
    needs_of(card(80, lengths=SampleLengths.of([2, 9, *range(10, 17)] * 40)), traces).of(make_config())
    padded = [request.micro_batch for request in traces.asked if not request.truth]
    assert sorted(padded) == [(9, 9, 9, 9), (16, 16), (16, 16, 16, 16)]


def test_micro_batches_without_padding_are_traced_too_and_take_their_own_blocks_in_the_course() -> None:
    class WithMasks(MadeUpTraces):
        """A padded micro-step has a mask of 50 bytes a row before its loss."""

        def traces(self, requests: Sequence[TraceRequest]) -> list[TraceDocument]:
            documents = super().traces(requests)
            for place, (request, document) in enumerate(zip(requests, documents, strict=True)):
                trace = document.trace
                if trace is not None and not request.truth:
                    mask = len(trace.sizes)
                    masked = replace(
                        trace,
                        sizes=(*trace.sizes, 50 * trace.rows),
                        categories=(*trace.categories, Category.ACTIVATIONS),
                        makers=(*trace.makers, "aten::mul"),
                        events=(*trace.events[:2], mask + 1, *trace.events[2:8], -(mask + 1), *trace.events[8:]),
                        phase_ends=(1, 2, 5, 10, 15, 15),
                        gradient_events={GRADIENT: 7},
                    )
                    documents[place] = TraceDocument(trace=masked)
            return documents

    situation = card(80, lengths=SampleLengths.of([8, 16, 16, 16] * 80))
    traces = WithMasks(scale=1)
    config = make_config(micro_batch_size=2, accumulation_steps=16)
    need = needs_of(situation, traces).of(config)
    assert {request.truth for request in traces.asked} == {True, False}
    # The worst has as many tokens as the one without padding, and a mask.
    assert len(need.worst.sizes) == len(made_up_trace().sizes) + 1
    micro_steps = list(itertools.chain.from_iterable(need.course()))
    with_mask = [len(step.sizes) == len(need.worst.sizes) for step in micro_steps]
    assert set(with_mask) == {True, False}
    reserved = need.on_allocator(limit=80 * GIB, expandable=False)
    assert not reserved.is_out_of_memory and reserved.allocated_bytes >= need.live_bytes


def test_a_kind_that_cannot_be_traced_is_predicted_as_the_other_and_neither_is_refused() -> None:
    class WithoutOne(MadeUpTraces):
        """Refuses to trace what fills its rows, or what does not."""

        refused: tuple[bool, ...] = ()

        def traces(self, requests: Sequence[TraceRequest]) -> list[TraceDocument]:
            documents = super().traces(requests)
            return [
                TraceDocument(trace=None, refusal=f"no {request.truth}") if request.truth in self.refused else document
                for request, document in zip(requests, documents, strict=True)
            ]

    situation = card(80, lengths=SampleLengths.of([8, 16, 16, 16] * 80))
    config = make_config(micro_batch_size=2, accumulation_steps=16)
    for refused in (True, False):
        traces = WithoutOne(scale=1)
        traces.refused = (refused,)
        need = needs_of(situation, traces).of(config)
        assert not need.on_allocator(limit=80 * GIB, expandable=False).is_out_of_memory
    traces.refused = (True, False)
    with pytest.raises(CannotPredictError, match="no True"):
        needs_of(situation, traces).of(config)


def test_micro_steps_of_several_processes_are_traced_with_padding_where_any_has_it() -> None:
    for lengths, truths, number in (
        ([8, 16, 16, 16] * 80, {False}, 1),
        ([16] * 80, {True}, 1),
        ([8, 16] * 80, {False}, 3),
    ):
        traces = MadeUpTraces()
        situation = card(80, lengths=SampleLengths.of(lengths), processes=2)
        needs_of(situation, traces).of(make_config(micro_batch_size=2, accumulation_steps=8))
        assert {request.truth for request in traces.asked} == truths
        assert len(traces.asked) == number


def test_where_rows_of_one_length_are_all_there_are_nothing_is_traced_with_padding() -> None:
    traces = MadeUpTraces()
    needs_of(card(80), traces).of(make_config())
    assert all(request.truth for request in traces.asked)


def test_without_a_trace_of_shorter_samples_a_shape_counts_by_its_tokens() -> None:
    situation = card(80, lengths=SampleLengths.of([2, 9, 16] * 40))
    traces = MadeUpTraces(scale=1)
    traces.lost = {9}
    need = needs_of(situation, traces).of(make_config(micro_batch_size=4, accumulation_steps=8))
    rows = {sizes[ACTIVATION] / 100 for step in need.course() for _, sizes in step}
    assert max(rows) == 4 and min(rows) < 4


def test_a_size_that_is_traced_for_itself_is_traced_with_the_tokens_of_its_worst_micro_batch() -> None:
    lengths = SampleLengths.of([2, 16] * 160)
    config = make_config(batch_layout="batch_rebalance", micro_batch_size=4, accumulation_steps=8)
    situation = card(80, lengths=lengths)
    worst, *_ = StepBatches(recipe_for(config, situation), situation.workload, 0).shapes().worst
    traces = MadeUpTraces(scale=1)
    traces.unlike = True
    need = needs_of(situation, traces).of(config)
    assert need.worst.sizes[ACTIVATION] == 100 * worst.rows
    assert len(traces.asked[-1].micro_batch) == worst.rows


def test_attention_in_a_flattened_row_is_shared_out_among_its_samples() -> None:
    situation = card(80, lengths=SampleLengths.of([15, 16] * 160), attention=("sdpa", "flash_attention_2"), missing={})
    for size in (1, 2, 4, 8):
        config = make_config(
            batch_layout="flattened", attention="flash_attention_2", precision="bf16",
            micro_batch_size=size, accumulation_steps=32 // size,
        )  # fmt: skip
        need = needs_of(situation, MadeUpTraces()).of(config)
        # As one document it would be the square of all tokens; each sample has but its own.
        traced = {1: 1, 2: 4, 4: 16, 8: 40}[size]  # affine between the traces of 2 and 4 samples
        assert need.shares.scores == pytest.approx(size / traced, rel=0.15)


def test_without_an_answer_about_its_micro_batches_a_layout_is_not_predicted_and_asked_about_once() -> None:
    traces = MadeUpTraces()
    traces.has_shapes = False
    predictor = predictor_of(card(80, lengths=SampleLengths.of([2, 16] * 40)), traces)
    predictor.prepare([make_config()])
    with pytest.raises(CannotPredictError, match="no worker said which micro-batches"):
        predictor.predict(make_config())
    assert not traces.asked


def test_two_traces_serve_every_micro_batch_of_a_range_and_are_asked_for_once() -> None:
    traces = MadeUpTraces()
    predictor = predictor_of(card(80), traces)
    sizes = [
        predictor.predict(make_config(micro_batch_size=size, accumulation_steps=32 // size)).live_bytes
        for size in (2, 4, 8, 16)
    ]
    # From 1,024 tokens on, 8 rows of these, CUDA splits sums.
    assert sorted(len(request.micro_batch) for request in traces.asked) == [2, 4, 8, 16]
    assert sizes == sorted(sizes)


def test_a_paged_optimizers_state_is_no_part_of_what_must_be_there() -> None:
    traces = MadeUpTraces()
    plain = predictor_of(card(80), traces).predict(make_config(optimizer="adamw_8bit"))
    paged = predictor_of(card(80), traces).predict(make_config(optimizer="paged_adamw_8bit"))
    assert plain.paged_bytes == 0 and paged.paged_bytes == 2000 * MIB
    assert paged.live_bytes == plain.live_bytes - paged.paged_bytes


def test_times_are_a_range_until_a_trial_says_which() -> None:
    predictor = predictor_of(card(80), MadeUpTraces())
    before = predictor.predict(make_config()).step_seconds
    assert before is not None and before[0] < before[1]
    predictor.learn(make_config(), needed_bytes=20 * GIB, paged_bytes=0, context=0, seconds=5.0)
    after = predictor.predict(make_config())
    assert after.step_seconds == (pytest.approx(5.0, rel=0.02), pytest.approx(5.0, rel=0.02)) and after.is_calibrated


def test_what_a_trial_needed_corrects_its_family_and_never_what_is_skipped() -> None:
    predictor = predictor_of(card(80), MadeUpTraces())
    plain = predictor.predict(make_config())
    predictor.learn(make_config(), needed_bytes=plain.total_bytes + 7 * MIB, paged_bytes=0, context=0, seconds=1.0)
    corrected = predictor.predict(make_config())
    assert corrected.total_bytes == plain.total_bytes + 7 * MIB
    assert corrected.certain_bytes == plain.certain_bytes
    assert sum(corrected.bytes_by_category.values()) == corrected.total_bytes


def test_what_large_configurations_were_off_by_never_takes_more_than_half_of_what_is_certain() -> None:
    predictor = predictor_of(make_situation(), MadeUpTraces())
    small = make_config(attention="eager", micro_batch_size=2, accumulation_steps=16)
    certain = predictor.predict(small).total_bytes
    for size in (8, 16):
        large = make_config(micro_batch_size=size, accumulation_steps=32 // size)
        needed = predictor.plain(large).total_bytes - 10 * certain
        predictor.learn(large, needed_bytes=needed, paged_bytes=0, context=0, seconds=1.0)
    assert predictor.predict(small).total_bytes == certain - certain // 2


def test_on_a_cpu_there_is_no_allocator_context_or_workspace() -> None:
    prediction = predictor_of(make_situation(), MadeUpTraces()).predict(make_config())
    assert prediction.total_bytes == prediction.live_bytes
    assert prediction.verdict is Verdict.FITS


def test_what_cannot_be_traced_raises_with_the_reason() -> None:
    traces = MadeUpTraces()
    traces.refusal = "RuntimeError: nonzero is data-dependent"
    with pytest.raises(CannotPredictError, match="data-dependent"):
        predictor_of(card(80), traces).predict(make_config())


def test_a_trials_prediction_counts_its_work_without_what_is_computed_again() -> None:
    class Recomputing(MadeUpTraces):
        """Checkpointing runs the forward product twice."""

        def traces(self, requests: Sequence[TraceRequest]) -> list[TraceDocument]:
            documents = super().traces(requests)
            for place, request in enumerate(requests):
                trace = documents[place].trace
                if trace is not None and request.recipe.training_arguments.get("activation_checkpointing"):
                    flops = (2 * trace.operators.flops[0], *trace.operators.flops[1:])
                    operators = replace(trace.operators, flops=flops)
                    documents[place] = TraceDocument(trace=replace(trace, operators=operators))
            return documents

    config = make_config(activation_checkpointing="every_layer", micro_batch_size=4, accumulation_steps=8)
    predictor = predictor_of(card(80), Recomputing())
    work = predictor.predict(config, with_work=True).work
    assert work is not None and work.peaks == "measured"
    assert work.flops == 2 * (work.model_flops or 0.0) == 2 * 8 * 4 * 1000
    assert work.mfu(2.0) == pytest.approx((work.model_flops or 0.0) / (2.0 * RATES.flops_16))
    assert work.bandwidth_share(2.0) == pytest.approx(work.moved_bytes / (2.0 * RATES.bytes_per_second))
    assert predictor.predict(config).work is None


def test_published_peaks_are_what_a_known_cards_work_is_held_against() -> None:
    peaks = replace(RATES, flops_16=2e6)
    situation = card(80)
    predictor = Predictor(needs_of(situation, MadeUpTraces()), situation, rates=RATES, peaks=peaks)
    work = predictor.predict(make_config(), with_work=True).work
    assert work is not None and work.peaks == "published"
    assert work.arithmetic_seconds == pytest.approx((work.model_flops or 0.0) / 2e6)


def test_the_models_work_is_that_of_fused_attention_whatever_was_tried_and_unknown_where_it_cannot_be_traced() -> None:
    traces = MadeUpTraces()
    predictor = predictor_of(card(80), traces)
    eager = make_config(attention="eager")
    sdpa = predictor.predict(make_config(), with_work=True).work
    assert predictor.predict(eager, with_work=True).work == sdpa
    traced = {request.recipe.model_kwargs["attn_implementation"] for request in traces.asked}
    assert traced == {"eager", "sdpa"}

    class OnlyEager(MadeUpTraces):
        """Another attention cannot be traced."""

        def traces(self, requests: Sequence[TraceRequest]) -> list[TraceDocument]:
            documents = super().traces(requests)
            return [
                document
                if request.recipe.model_kwargs["attn_implementation"] == "eager"
                else TraceDocument(trace=None, refusal="lost")
                for document, request in zip(documents, requests, strict=True)
            ]

    work = predictor_of(card(80), OnlyEager()).predict(eager, with_work=True).work
    assert work is not None and work.flops > 0 and work.mfu(1.0) is None
