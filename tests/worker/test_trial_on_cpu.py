"""Real trials: the real Trainer, in forked children, under a real limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autofit.device.kinds import find_device, kind_of
from autofit.job.lengths import SampleLengths
from autofit.job.method import Adapter
from autofit.job.models import ModelSource
from autofit.job.situation import Limits, Situation
from autofit.job.workload import Workload
from autofit.knobs.recipe import Recipe, recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial.launcher import TrialServer
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import ProcessRunner
from autofit.trial.workshop import Workshop, probe
from tests.conftest import TINY_LLAMA
from tests.doubles import make_config

MIB = 2**20
ATTEMPTS = 4
QUICK = MeasuringPlan(patience_seconds=0.2, warmup_limit=3)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    made = Workshop(kind_of("cpu"), 0, tmp_path_factory.mktemp("jobs"), lambda sentence: None)
    yield made
    made.close()


def situation_for(
    workshop: Workshop,
    source: ModelSource,
    *,
    effective_batch: int = 8,
    lengths: SampleLengths | None = None,
    limit: int | None = None,
    task: str = "causal-lm",
    method: str = "full",
) -> Situation:
    device = find_device("cpu")
    workload = Workload(
        model=source.name,
        model_digest=source.digest,
        task=task,
        lengths=lengths or SampleLengths.fixed(32),
        effective_batch=effective_batch,
        method=method,
        adapter=None if method == "full" else Adapter(rank=4, alpha=8),
    )
    limits = Limits(memory_bytes=limit or device.memory_bytes, headroom=0.0 if limit else 0.05)
    return probe(workshop, source, workload, device, limits, trust_remote_code=False)


Try = Callable[..., RunResult]


@pytest.fixture
def attempt(workshop: Workshop) -> Try:
    """Run one configuration of the tiny llama, or of a changed one."""

    def run(
        *,
        model: dict | None = None,
        plan: MeasuringPlan = QUICK,
        limit: int | None = None,
        effective_batch: int = 8,
        sequence_length: int = 32,
        lengths: SampleLengths | None = None,
        task: str = "causal-lm",
        method: str = "full",
        recipe_change: Callable[[Recipe], Recipe] = lambda recipe: recipe,
        **config: object,
    ) -> RunResult:
        source = ModelSource(name="tiny", origin="folder", config={**TINY_LLAMA, **(model or {})})
        situation = situation_for(
            workshop,
            source,
            effective_batch=effective_batch,
            lengths=lengths or SampleLengths.fixed(sequence_length),
            limit=limit,
            task=task,
            method=method,
        )
        size = int(config.pop("micro_batch_size", 2))  # type: ignore[call-overload]
        wanted = make_config(micro_batch_size=size, accumulation_steps=effective_batch // size, **config)
        runner = ProcessRunner(workshop, situation, source)
        return runner.run(recipe_change(recipe_for(wanted, situation)), plan, "attempt")

    return run


CHOICES = [
    ("precision", "fp32"),
    ("precision", "bf16"),
    ("precision", "pure_bf16"),
    ("activation_checkpointing", "every_layer"),
    ("activation_checkpointing", "every_2nd"),
    ("activation_checkpointing", "every_4th"),
    ("attention", "eager"),
    ("attention", "sdpa"),
    ("optimizer", "adamw_torch_fused"),
    ("optimizer", "adamw_torch"),
    ("optimizer", "adamw_8bit"),
    ("optimizer", "adafactor"),
    ("optimizer", "lion_8bit"),
]
# Layouts are in test_workloads_on_cpu.py; compiling takes most of a minute and is marked slow there.
ELSEWHERE = {
    ("activation_checkpointing", "off"),
    ("batch_layout", "dynamic_padding"),
    ("kernels", "default"),
    ("compile", "off"),
    ("compile", "inductor"),
    ("allocator", "default"),
    ("loader", "default"),
    ("parallelism", "ddp"),
}


@pytest.mark.parametrize(("name", "value"), CHOICES)
def test_every_choice_a_cpu_has_really_trains(name: str, value: str, attempt: Try) -> None:
    result = attempt(**{name: value})
    assert result.outcome is Outcome.OK, result.reason
    assert result.measurement is not None and result.measurement.step_seconds > 0


def test_the_list_above_is_everything_a_cpu_has(workshop: Workshop, tiny_source: ModelSource) -> None:
    space = SearchSpace(situation_for(workshop, tiny_source), SpaceRequest(numerics="aggressive"))
    available = {(name, value) for name, values in space.choices.items() for value in values}
    assert available - ELSEWHERE == set(CHOICES)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 8])
def test_a_step_holds_the_micro_steps_it_claims_and_its_parts_sum_to_the_window(
    micro_batch_size: int, attempt: Try
) -> None:
    for _ in range(ATTEMPTS):
        result = attempt(micro_batch_size=micro_batch_size)
        measurement = result.measurement
        assert measurement is not None, result.reason
        # A busy machine may take the processor away between the last mark and the clock.
        if all(window.unaccounted_share < 0.01 for window in measurement.windows):
            break
    accumulation = 8 // micro_batch_size
    assert measurement.accumulation_steps == accumulation
    assert measurement.whole == (accumulation <= 3)
    for window in measurement.windows:
        assert {len(step.micro_steps) for step in window.steps} == {min(accumulation, 3)}
        assert window.unaccounted_share < 0.01
        assert all(part > 0 for step in window.steps for part in (step.fetch, *step.micro_steps, step.update))
    assert len(measurement.warmup) >= 2 and len(measurement.samples) >= 3
    assert measurement.tokens_per_step == 8 * 32
    assert measurement.evaluation_batch_size == micro_batch_size


def test_a_whole_trial_runs_every_micro_step(attempt: Try) -> None:
    measurement = attempt(micro_batch_size=1, plan=MeasuringPlan(whole=True, patience_seconds=0.2)).measurement
    assert measurement is not None and measurement.whole
    assert {len(step.micro_steps) for window in measurement.windows for step in window.steps} == {8}


def test_the_loss_is_that_of_a_fresh_model_over_its_vocabulary(attempt: Try) -> None:
    """Real weights and real token ids: ln(512) = 6.24 in the first step, shared over its micro-steps."""
    measurement = attempt(micro_batch_size=8).measurement
    assert measurement is not None and measurement.losses[0] == pytest.approx(6.24, abs=0.3)


def test_peak_memory_grows_with_the_micro_batch_and_shrinks_with_checkpointing(attempt: Try) -> None:
    peaks = {}
    for size, checkpointing in ((2, "off"), (8, "off"), (8, "every_2nd"), (8, "every_layer")):
        measurement = attempt(
            micro_batch_size=size,
            activation_checkpointing=checkpointing,
            effective_batch=16,
            sequence_length=256,
        ).measurement
        assert measurement is not None
        peaks[size, checkpointing] = measurement.memory.peak_reserved
    assert peaks[2, "off"] < peaks[8, "every_layer"] < peaks[8, "every_2nd"] < peaks[8, "off"]


def test_measuring_longer_does_not_take_more_memory(attempt: Try) -> None:
    """A kept tensor per micro-step once pinned the heap, and a trial of 120 steps needed four times one of 3."""
    peaks = {}
    for steps in (3, 60):
        plan = MeasuringPlan(least_steps=steps, most_steps=steps, patience_seconds=0.01)
        measurement = attempt(plan=plan, micro_batch_size=1, attention="eager", sequence_length=256).measurement
        assert measurement is not None and len(measurement.samples) == steps
        peaks[steps] = measurement.memory.needed
    assert peaks[60] < peaks[3] * 1.3


def test_a_limit_makes_real_out_of_memory_errors_and_the_next_trial_is_none_the_worse(attempt: Try) -> None:
    failed = attempt(micro_batch_size=8, sequence_length=256, limit=40 * MIB)
    assert failed.outcome is Outcome.OOM
    assert "the memory limit was reached asking for" in failed.reason
    assert attempt(micro_batch_size=1, sequence_length=32, limit=40 * MIB).outcome is Outcome.OK


@pytest.mark.whole
def test_accumulation_one_can_need_less_than_a_smaller_micro_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without accumulation no gradients are alive during the forward pass.

    With checkpointing and few tokens the gradients outweigh the activations that more samples add, so an
    out-of-memory with accumulation must never rule out accumulation 1. Every block is mapped on its own
    here, so that the data segment follows live memory and not the heap's fragmentation.
    """
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "vocab_size": 4096}
    source = ModelSource(name="wide", origin="folder", config={**TINY_LLAMA, **wide})
    own = Workshop(kind_of("cpu"), 0, tmp_path, lambda sentence: None)
    needed = {}
    try:
        situation = situation_for(own, source, lengths=SampleLengths.fixed(64))
        runner = ProcessRunner(own, situation, source)
        for size in (4, 8):
            config = make_config(
                micro_batch_size=size, accumulation_steps=8 // size, activation_checkpointing="every_layer"
            )
            measurement = runner.run(recipe_for(config, situation), QUICK, f"size-{size}").measurement
            assert measurement is not None
            needed[size] = measurement.memory.needed
    finally:
        own.close()
    assert needed[8] < needed[4]


def test_a_loss_that_is_not_finite_is_invalid(attempt: Try) -> None:
    def exploding(recipe: Recipe) -> Recipe:
        return replace(recipe, training_arguments={**recipe.training_arguments, "learning_rate": 1e38})

    result = attempt(recipe_change=exploding)
    assert result.outcome is Outcome.INVALID and "not finite in optimizer step 2" in result.reason


def test_a_warm_step_far_beyond_the_best_is_slower_and_has_no_measurement(attempt: Try) -> None:
    result = attempt(plan=MeasuringPlan(slower_than_seconds=1e-6, warmup_agreement=0.0))
    assert result.outcome is Outcome.SLOWER and result.measurement is None


def test_what_a_library_raises_is_an_error_with_its_words_and_a_trace_in_the_log(attempt: Try) -> None:
    def broken(recipe: Recipe) -> Recipe:
        return replace(recipe, training_arguments={**recipe.training_arguments, "optim": "no_such_optimizer"})

    result = attempt(recipe_change=broken)
    assert result.outcome is Outcome.ERROR and "no_such_optimizer" in result.reason
    assert result.log_path is not None and "Traceback" in Path(result.log_path).read_text()


def test_attention_that_is_not_installed_is_unsupported_not_an_error(attempt: Try) -> None:
    def flash(recipe: Recipe) -> Recipe:
        return replace(recipe, model_kwargs={**recipe.model_kwargs, "attn_implementation": "flash_attention_2"})

    assert attempt(recipe_change=flash).outcome is Outcome.UNSUPPORTED


def test_masked_language_models_train_too(attempt: Try) -> None:
    bert = {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"],
        "num_key_value_heads": None,
        "max_position_embeddings": 64,
    }
    result = attempt(model=bert, task="masked-lm")
    assert result.outcome is Outcome.OK, result.reason


def test_a_probe_refuses_what_cannot_be_built_with_a_sentence(workshop: Workshop) -> None:
    from autofit.errors import UserError

    unknown = ModelSource(name="odd", origin="folder", config={"model_type": "no-such-type"})
    with pytest.raises(UserError, match="odd cannot be built"):
        situation_for(workshop, unknown)


def test_the_probe_counts_parameters_without_making_them(workshop: Workshop, tiny_source: ModelSource) -> None:
    model = situation_for(workshop, tiny_source).model
    assert model.embedding_parameters == 512 * 64
    # Embedding and head, then per layer: q and o, k and v, three of the MLP, two norms; and the last norm.
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 256 + 2 * 64
    assert model.num_parameters == 2 * 512 * 64 + 4 * layer + 64
    assert model.supports_checkpointing and set(model.attention) >= {"eager", "sdpa"}


VERSES = SampleLengths.of([5, 9, 14, 22, 30, 41, 55, 64] * 16)


@pytest.mark.parametrize(
    "config",
    [
        {"micro_batch_size": 4},
        {"micro_batch_size": 2, "precision": "bf16"},
        {"micro_batch_size": 8, "activation_checkpointing": "every_layer"},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_what_a_trial_says_it_needs_is_what_a_whole_run_dies_without(config: dict, attempt: Try) -> None:
    """Capped, exhausted and reported is one quantity; ``benchmarks/cpu_memory.py`` holds it to 110 and 90 %.

    A model this small leaves more to the heap's chance, so the bounds are wider here.
    """
    whole = MeasuringPlan(whole=True, patience_seconds=0.5)
    model = {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 2048}
    short = attempt(model=model, lengths=VERSES, **config).measurement
    measured = attempt(model=model, lengths=VERSES, plan=whole, **config).measurement
    assert short is not None and measured is not None
    need = max(short.memory.needed, measured.memory.needed)
    assert short.memory.needed == pytest.approx(measured.memory.needed, rel=0.25)
    assert attempt(model=model, lengths=VERSES, plan=whole, limit=round(1.25 * need), **config).outcome is Outcome.OK
    failed = attempt(model=model, lengths=VERSES, plan=whole, limit=round(0.7 * need), **config)
    assert failed.outcome is Outcome.OOM, failed.reason


def test_short_trials_run_steps_of_many_shapes(attempt: Try) -> None:
    measurement = attempt(lengths=VERSES, micro_batch_size=2).measurement
    assert measurement is not None
    mixed = [window for window in measurement.windows if window.shape is None]
    assert len(mixed) == 1 and len(mixed[0].steps) >= 8
    assert sum(mixed[0].step_loads) / len(mixed[0].step_loads) == pytest.approx(1.0, abs=0.15)


def test_the_time_that_others_take_of_the_processor_is_counted(attempt: Try) -> None:
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        measurement = attempt(micro_batch_size=2, plan=MeasuringPlan(patience_seconds=1.0, least_steps=20)).measurement
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    assert measurement is not None and measurement.cores_taken > 0.3


def test_a_trial_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    own = Workshop(kind_of("cpu"), 0, tmp_path, said.append)
    source = ModelSource(name="tiny", origin="folder", config=TINY_LLAMA)
    try:
        situation = situation_for(own, source)
        runner = ProcessRunner(own, situation, source)
        server = own.launcher({})
        assert isinstance(server, TrialServer)
        os.kill(server._process.pid, signal.SIGKILL)
        result = runner.run(recipe_for(make_config(micro_batch_size=2, accumulation_steps=4), situation), QUICK, "one")
        assert result.outcome is Outcome.OK, result.reason
        assert isinstance(own.launcher({}), TrialServer) and own.launcher({}) is not server
        assert len(said) == 1 and said[0].startswith("Starting the trial server again: ")
    finally:
        own.close()
