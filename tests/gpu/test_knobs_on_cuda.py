"""Every value of every knob on a real card: it trains, and what is called exact is the same training."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autofit.device.kinds import find_device, kind_of
from autofit.driver.starts import made_valid
from autofit.job.lengths import SampleLengths
from autofit.job.method import Adapter
from autofit.job.models import ModelSource
from autofit.job.situation import Limits, Situation
from autofit.job.workload import Workload
from autofit.knobs import KNOBS
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.study.outcome import Outcome
from autofit.trial.equivalence import check_equivalence
from autofit.trial.protocol import MeasuringPlan, StepJob, StepResult
from autofit.trial.runner import ProcessRunner
from autofit.trial.workshop import Workshop, probe
from tests.doubles import make_config
from tests.gpu.test_cuda import WIDE

pytestmark = pytest.mark.gpu

QUICK = MeasuringPlan(patience_seconds=0.5)
LENGTHS = SampleLengths.of([40, 90, 200, 170, 60, 25, 250, 31] * 8)
VALUES = [(row.name, choice.value) for row in KNOBS for choice in row.choices]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    made = Workshop(
        kind_of("cuda"), find_device("cuda:0").index, tmp_path_factory.mktemp("jobs"), lambda sentence: None
    )
    yield made
    made.close()


def situation_for(workshop: Workshop, method: str = "full") -> tuple[Situation, ModelSource]:
    device = find_device("cuda:0")
    source = ModelSource(name="wide", origin="folder", config=WIDE)
    workload = Workload(
        model="wide",
        model_digest=source.digest,
        task="causal-lm",
        lengths=LENGTHS,
        effective_batch=16,
        method=method,
        adapter=None if method == "full" else Adapter(),
    )
    limits = Limits(memory_bytes=device.memory_bytes)
    return probe(workshop, source, workload, device, limits, trust_remote_code=False), source


@pytest.fixture(scope="module")
def place(workshop: Workshop) -> tuple[Situation, ModelSource, SearchSpace]:
    situation, source = situation_for(workshop)
    return situation, source, SearchSpace(situation, SpaceRequest(numerics="aggressive"))


def with_value(space: SearchSpace, name: str, value: KnobValue) -> TrainConfig:
    """A plain bf16 configuration with one value; skipped, with the reason, where it cannot be had."""
    for refusal in space.refusals:
        if (refusal.knob, refusal.value) == (name, value):
            pytest.skip(refusal.reason)
    plain = make_config(micro_batch_size=4, accumulation_steps=4, precision="bf16")
    config = made_valid(space, plain.replace(**{name: value}), keep=name)
    assert config is not None
    return config


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_every_value_that_can_be_had_trains(
    name: str, value: KnobValue, workshop: Workshop, place: tuple[Situation, ModelSource, SearchSpace]
) -> None:
    situation, source, space = place
    config = with_value(space, name, value)
    result = ProcessRunner(workshop, situation, source).run(recipe_for(config, situation), QUICK, f"{name}-{value}")
    assert result.outcome is Outcome.OK, result.reason


@pytest.mark.parametrize(("name", "value"), [pair for pair in VALUES if pair[0] != "optimizer"])
def test_every_value_is_the_same_training_within_its_class(
    name: str, value: KnobValue, workshop: Workshop, place: tuple[Situation, ModelSource, SearchSpace]
) -> None:
    situation, source, space = place
    config = with_value(space, name, value)

    def run(wanted: TrainConfig) -> StepResult:
        job = StepJob(
            model=source,
            workload=situation.workload,
            recipe=recipe_for(wanted, situation),
            device=workshop.torch_device,
        )
        answer, how_it_ended = workshop.ask(job, "step", 300)
        assert isinstance(answer, StepResult), how_it_ended
        return answer

    assert check_equivalence([(f"{name}={value}", config)], situation, run)[-1].problem is None


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_train_beside_frozen_weights(method: str, workshop: Workshop) -> None:
    pytest.importorskip("bitsandbytes" if method == "qlora" else "peft")
    situation, source = situation_for(workshop, method)
    config = make_config(micro_batch_size=4, accumulation_steps=4, precision="bf16")
    result = ProcessRunner(workshop, situation, source).run(recipe_for(config, situation), QUICK, method)
    assert result.outcome is Outcome.OK, result.reason
