"""Predictions from made-up traces: verdicts, categories, calibration, what cannot be predicted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from autofit.catalogue.models import ModelSource
from autofit.lengths import SampleLengths
from autofit.predict.fixed_costs import CONTEXT, CUBLAS_THREADS, CUBLAS_WORKSPACE_HOPPER
from autofit.predict.needs import CannotPredictError, Needs
from autofit.predict.predictor import Predictor
from autofit.predict.request import TraceDocument, TraceRequest
from autofit.predict.step_time import OF_PUBLISHED_PEAKS, Efficiency
from autofit.prediction import Verdict
from autofit.rates import Rates
from autofit.situation import Situation
from autofit.units import GIB, MIB
from tests.doubles import make_config, make_situation
from tests.predict.made_up import made_up_trace

MODEL = ModelSource(name="some/llama", origin="folder", config={"model_type": "llama"})
RATES = Rates(flops_16=1e6, flops_32=1e6, bytes_per_second=1e6, launch_seconds=0.0)


class MadeUpTraces:
    """Answers requests with the step written by hand; ``scale`` makes its blocks as large as a card's."""

    def __init__(self, scale: int = MIB) -> None:
        self.scale = scale
        self.asked: list[TraceRequest] = []
        self.refusal = ""

    def __call__(self, requests: Sequence[TraceRequest]) -> list[TraceDocument]:
        self.asked += requests
        if self.refusal:
            return [TraceDocument(trace=None, refusal=self.refusal)] * len(requests)
        return [TraceDocument(trace=self._trace(len(request.micro_batch))) for request in requests]

    def _trace(self, rows: int):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        trace = made_up_trace(rows)
        return replace(trace, sizes=tuple(size * self.scale for size in trace.sizes))


def predictor_of(
    situation: Situation, traces: MadeUpTraces, efficiencies: tuple[Efficiency, ...] = OF_PUBLISHED_PEAKS
) -> Predictor:
    return Predictor(
        Needs(situation, MODEL, traces),
        situation,
        rates=RATES,
        efficiencies=efficiencies,
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


def test_rebalanced_micro_batches_whose_rows_are_not_known_are_neither_refused_nor_promised() -> None:
    traces, lengths = MadeUpTraces(), SampleLengths.of([20, 60, 128] * 40)
    config = make_config(batch_layout="batch_rebalance")

    def verdict(gibibytes: float) -> Verdict:
        return predictor_of(card(gibibytes, lengths=lengths), traces).predict(config).verdict

    predicted = predictor_of(card(80, lengths=lengths), traces).predict(config)
    certain = (predicted.total_bytes - predicted.bytes_by_category["allocator_slack"]) / GIB
    assert verdict(certain * 0.9) is Verdict.BORDERLINE
    assert verdict(certain * 1.2) is Verdict.BORDERLINE
    assert verdict(certain * 2) is Verdict.FITS


def test_two_traces_serve_every_micro_batch_and_are_asked_for_once() -> None:
    traces = MadeUpTraces()
    predictor = predictor_of(card(80), traces)
    sizes = [
        predictor.predict(make_config(micro_batch_size=size, accumulation_steps=32 // size)).live_bytes
        for size in (2, 4, 8, 16)
    ]
    assert sorted(len(request.micro_batch) for request in traces.asked) == [2, 4]
    assert sizes == sorted(sizes)


def test_a_paged_optimizers_state_is_no_part_of_what_must_be_there() -> None:
    traces = MadeUpTraces()
    plain = predictor_of(card(80), traces).predict(make_config(optimizer="adamw_8bit"))
    paged = predictor_of(card(80), traces).predict(make_config(optimizer="paged_adamw_8bit"))
    assert plain.paged_bytes == 0 and paged.paged_bytes == 2000 * MIB
    assert paged.live_bytes == plain.live_bytes - paged.paged_bytes


def test_torchao_state_is_computed_by_formula_and_says_so() -> None:
    prediction = predictor_of(card(80), MadeUpTraces()).predict(make_config(optimizer="adamw_torch_4bit"))
    assert prediction.bytes_by_category["optimizer_state"] < 2000 * MIB / 4
    assert "by formula" in " ".join(prediction.notes)


def test_times_are_a_range_until_a_trial_says_which() -> None:
    predictor = predictor_of(card(80), MadeUpTraces())
    before = predictor.predict(make_config()).step_seconds
    assert before is not None and before[0] < before[1]
    predictor.learn(make_config(), needed_bytes=20 * GIB, paged_bytes=0, context=0, seconds=5.0)
    after = predictor.predict(make_config())
    assert after.step_seconds == (pytest.approx(5.0), pytest.approx(5.0)) and after.is_calibrated


def test_what_a_trial_needed_corrects_its_family_and_never_what_is_skipped() -> None:
    predictor = predictor_of(card(80), MadeUpTraces())
    plain = predictor.predict(make_config())
    predictor.learn(make_config(), needed_bytes=plain.total_bytes + 7 * MIB, paged_bytes=0, context=0, seconds=1.0)
    corrected = predictor.predict(make_config())
    assert corrected.total_bytes == plain.total_bytes + 7 * MIB
    assert corrected.certain_bytes == plain.certain_bytes
    assert sum(corrected.bytes_by_category.values()) == corrected.total_bytes


def test_on_a_cpu_there_is_no_allocator_context_or_workspace() -> None:
    prediction = predictor_of(make_situation(), MadeUpTraces()).predict(make_config())
    assert prediction.total_bytes == prediction.live_bytes
    assert prediction.verdict is Verdict.FITS


def test_what_cannot_be_traced_raises_with_the_reason() -> None:
    traces = MadeUpTraces()
    traces.refusal = "RuntimeError: nonzero is data-dependent"
    with pytest.raises(CannotPredictError, match="data-dependent"):
        predictor_of(card(80), traces).predict(make_config())
