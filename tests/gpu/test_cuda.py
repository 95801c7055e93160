"""Tests of what only a CUDA device can show. Run with ``make gpu``; skipped, with the reason, elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import autofit
from autofit.device import nvml
from autofit.device.kinds import find_device, kind_of
from autofit.job.lengths import SampleLengths
from autofit.job.models import ModelSource
from autofit.job.situation import Limits, Situation
from autofit.job.workload import Workload
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.study.outcome import Outcome
from autofit.trial.launcher import TrialServer
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import ProcessRunner
from autofit.trial.workshop import Workshop, probe
from tests.conftest import TINY_LLAMA
from tests.doubles import make_config

pytestmark = pytest.mark.gpu

GIB = 2**30
WIDE = {**TINY_LLAMA, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "vocab_size": 32000}
QUICK = MeasuringPlan(patience_seconds=1.0)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    said: list[str] = []
    made = Workshop(kind_of("cuda"), find_device("cuda:0").index, tmp_path_factory.mktemp("jobs"), said.append)
    yield made
    made.close()
    assert not said, said


def situation_for(workshop: Workshop, limit: int | None = None) -> tuple[Situation, ModelSource]:
    device = find_device("cuda:0")
    source = ModelSource(name="wide", origin="folder", config=WIDE)
    workload = Workload(
        model="wide", model_digest=source.digest, task="causal-lm", lengths=SampleLengths.fixed(256), effective_batch=16
    )
    limits = Limits(memory_bytes=limit or device.memory_bytes)
    return probe(workshop, source, workload, device, limits, trust_remote_code=False), source


def test_the_trial_server_forks_workers_that_open_the_device(workshop: Workshop) -> None:
    assert isinstance(workshop.launcher({}), TrialServer)
    situation, _ = situation_for(workshop)
    assert situation.device.kind == "cuda" and situation.device.compute_capability is not None


def test_every_available_choice_trains(workshop: Workshop) -> None:
    situation, source = situation_for(workshop)
    space = SearchSpace(situation, SpaceRequest(numerics="aggressive"))
    runner = ProcessRunner(workshop, situation, source)
    for name, values in space.choices.items():
        for value in values:
            config = make_config(micro_batch_size=4, accumulation_steps=4, precision="bf16").replace(**{name: value})
            if config in space:
                result = runner.run(recipe_for(config, situation), QUICK, f"{name}-{value}")
                assert result.outcome is Outcome.OK, f"{name}={value}: {result.reason}"


def test_parts_sum_to_the_window_and_peaks_are_the_allocator_s(workshop: Workshop) -> None:
    situation, source = situation_for(workshop)
    runner = ProcessRunner(workshop, situation, source)
    config = make_config(micro_batch_size=2, accumulation_steps=8, precision="bf16")
    measurement = runner.run(recipe_for(config, situation), QUICK, "parts").measurement
    assert measurement is not None
    assert all(window.unaccounted_share < 0.01 for window in measurement.windows)
    memory = measurement.memory
    assert 0 < memory.peak_allocated <= memory.peak_reserved and memory.context > 0 and memory.device_used
    assert measurement.windows[0].load_after.sm_clock_mhz


def test_an_emulated_smaller_card_runs_out_of_memory_for_real(workshop: Workshop) -> None:
    situation, source = situation_for(workshop, limit=5 * GIB)
    runner = ProcessRunner(workshop, situation, source)
    large = make_config(micro_batch_size=16, accumulation_steps=1)
    assert runner.run(recipe_for(large, situation), QUICK, "large").outcome is Outcome.OOM
    used = nvml.used_bytes(situation.device.index)
    small = make_config(micro_batch_size=1, accumulation_steps=16, activation_checkpointing="every_layer")
    result = runner.run(recipe_for(small, situation), QUICK, "small")
    assert result.outcome is Outcome.OK, result.reason
    assert result.measurement is not None and result.measurement.memory.needed <= situation.limits.usable_bytes
    assert used is not None


def test_a_search_ends_with_a_recommendation(tmp_path: Path) -> None:
    result = autofit.search("EleutherAI/pythia-70m", effective_batch=32, seq_len=256, budget="3m", device="cuda:0")
    assert result.best.trial.measurement is not None
    assert result.ranking.reference is not None
