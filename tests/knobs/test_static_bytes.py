"""Bytes that a training holds for certain."""

from __future__ import annotations

import pytest

from autofit.knobs.static_bytes import static_bytes, surely_needs
from autofit.predict.timeline import StepBuilder
from autofit.worker.tracer.batch import trace_request
from benchmarks.prediction.live_bytes import Case, request_of, situation_of
from tests.doubles import make_config, make_situation


def test_an_update_has_weights_gradients_and_state() -> None:
    situation = make_situation()
    number = situation.model.num_parameters
    assert static_bytes(situation, make_config()) == surely_needs(situation, make_config()) == 16 * number
    assert static_bytes(situation, make_config(precision="pure_bf16")) == 8 * number
    paged = make_config(optimizer="paged_adamw_8bit")
    # Two bytes, and a scale for each block of them.
    assert static_bytes(situation, paged) == pytest.approx(10 * number, rel=0.01)
    assert surely_needs(situation, paged) == 8 * number


@pytest.mark.parametrize(("parallelism", "share", "certain"), [("ddp", 1, 1), ("fsdp2", 4, 4), ("fsdp2_offload", 4, 0)])
def test_what_is_cut_into_parts_is_a_part(parallelism: str, share: int, certain: int) -> None:
    situation, config = make_situation(processes=4), make_config(parallelism=parallelism)
    whole = static_bytes(make_situation(), make_config())
    assert static_bytes(situation, config) == whole // share
    assert surely_needs(situation, config) == (whole // certain if certain else 0)


@pytest.mark.parametrize(
    "case",
    [
        Case(architecture="gpt2"),
        Case(architecture="llama", precision="pure_bf16"),
        Case(architecture="llama", optimizer="adafactor"),
        Case(architecture="llama", optimizer="adamw_8bit"),
        Case(architecture="llama", method="lora", precision="bf16"),
    ],
    ids=lambda case: case.name,
)
def test_no_traced_step_has_less_than_what_is_certain(case: Case) -> None:
    request, _ = request_of(case)
    trace = trace_request(request).trace
    assert trace is not None
    config = make_config(precision=case.precision, optimizer=case.optimizer)
    situation, _ = situation_of(case)
    alive = StepBuilder(trace).steady_step(1).peak_bytes
    assert 0 < surely_needs(situation, config) <= alive
