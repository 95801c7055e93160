"""torchao's optimizers in a trace, where torchao is installed."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from autofit.predict.trace import Category, Phase, StepTrace
from autofit.worker.tracer.batch import trace_request
from tests.worker.tracer.test_batch import request_for

pytest.importorskip("torchao")
MODEL = "HuggingFaceTB/SmolLM2-135M"
WEIGHTS, EMBEDDING = 134_515_008, 49152 * 576


def traced(optimizer: str) -> StepTrace:
    request = request_for(MODEL, rows=1, length=8)
    arguments = {**request.recipe.training_arguments, "optim": optimizer}
    recipe = replace(request.recipe, training_arguments=arguments)
    document = trace_request(msgspec.structs.replace(request, recipe=recipe))
    assert document.trace is not None, document.refusal
    return document.trace


@pytest.mark.parametrize(
    ("optimizer", "bytes_a_weight", "temporaries_a_weight"),
    [("adamw_torch_8bit", 2 + 2 * 4 / 256, 8 + 8 / 256), ("adamw_torch_4bit", 1 + 2 * 4 / 256, 24 + 8 / 256)],
)
def test_state_and_temporaries_are_those_of_torchao(
    optimizer: str, bytes_a_weight: float, temporaries_a_weight: float
) -> None:
    trace = traced(optimizer)
    state = [
        size
        for size, category in zip(trace.sizes, trace.categories, strict=True)
        if category == Category.OPTIMIZER_STATE
    ]
    assert sum(state) == pytest.approx(WEIGHTS * bytes_a_weight, rel=0.01)
    update = trace.events[trace.phase_ends[Phase.BACKWARD] : trace.phase_ends[Phase.UPDATE]]
    alive = most = 0
    for event in update:
        if trace.categories[abs(event) - 1] != Category.OPTIMIZER_STATE:
            alive += trace.sizes[abs(event) - 1] * (1 if event > 0 else -1)
            most = max(most, alive)
    # Its rows of 576 are no whole blocks.
    assert most == pytest.approx(EMBEDDING * temporaries_a_weight, rel=0.01)


def test_the_update_is_work_that_moves_each_weight_and_its_state() -> None:
    operators = traced("adamw_torch_8bit").operators
    updates = [place for place, name in enumerate(operators.names) if name == "torchao::adamw"]
    assert len(updates) == 272
    assert sum(operators.moved_bytes[place] for place in updates) > WEIGHTS * (2 * 4 + 4 + 2 * 2)
