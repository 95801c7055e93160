"""Real trials of every layout, task and method that a CPU can run."""

from __future__ import annotations

from pathlib import Path

import pytest

from autofit.job.lengths import SampleLengths
from autofit.job.models import ModelSource
from autofit.knobs.recipe import recipe_for
from autofit.study.outcome import Outcome
from autofit.trial.protocol import MeasuringPlan, MemoryPlan, TrialJob, read_job, write_document
from tests.doubles import make_config, make_situation
from tests.worker.test_trial_on_cpu import QUICK, Try, attempt, workshop

__all__ = ["attempt", "workshop"]

VERSES = SampleLengths.of([4, 9, 30, 17, 60, 25, 25, 31] * 4)
SMALL = {
    "architectures": None,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": None,
    "max_position_embeddings": 128,
}
MODELS = {
    "llama": {},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1},
    "bert": {**SMALL, "model_type": "bert"},
    "modernbert": {**SMALL, "model_type": "modernbert", "pad_token_id": 0},
    "mixtral": {**SMALL, "model_type": "mixtral", "num_key_value_heads": 2, "num_local_experts": 4},
    "t5": {
        "model_type": "t5",
        "architectures": None,
        "d_model": 64,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 4,
        "d_kv": 16,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
    },
    "vit": {**SMALL, "model_type": "vit", "image_size": 32, "patch_size": 8, "num_labels": 5},
}


@pytest.mark.parametrize(
    ("layout", "attention"),
    [
        ("dynamic_padding", "sdpa"),
        ("fixed_padding", "sdpa"),
        ("batch_rebalance", "sdpa"),
        ("group_by_length", "sdpa"),
        ("packed", "sdpa"),
        ("packed", "eager"),
        ("flattened", "torch_varlen"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_every_layout_trains_short_and_whole_over_the_same_expected_tokens(
    layout: str, attention: str, whole: bool, attempt: Try
) -> None:
    result = attempt(
        lengths=VERSES,
        plan=MeasuringPlan(patience_seconds=0.2, warmup_limit=3, whole=whole),
        batch_layout=layout,
        attention=attention,
    )
    measurement = result.measurement
    assert measurement is not None, result.reason
    assert measurement.whole == whole and measurement.step_seconds > 0
    if layout != "group_by_length":
        assert measurement.tokens_per_step == pytest.approx(8 * VERSES.mean, rel=0.05)
    assert (measurement.padding_share == 0) == (layout == "flattened")
    if whole:
        assert not measurement.shape_shares
        assert {len(step.micro_steps) for window in measurement.windows for step in window.steps} == {4}
        assert all(len(window.step_loads) == len(window.steps) for window in measurement.windows)
    else:
        timed = {window.shape for window in measurement.windows}
        # Steps of many shapes have none of their own.
        assert timed - {None} == {shape for shape, _ in measurement.shape_shares}
        assert sum(share for _, share in measurement.shape_shares) == pytest.approx(1)


def test_the_longest_samples_set_the_memory_however_rare_they_are(attempt: Try) -> None:
    peaks = {}
    for longest in (20, 250):
        lengths = SampleLengths.of([10, 12, 14, 16] * 100 + [longest] * 2)
        measurement = attempt(lengths=lengths, attention="eager").measurement
        assert measurement is not None
        peaks[longest] = measurement.memory.needed
    assert peaks[250] > 2 * peaks[20]


@pytest.mark.parametrize(
    ("model", "task"),
    [
        ("bert", "masked-lm"),
        ("bert", "sequence-classification"),
        ("bert", "token-classification"),
        ("modernbert", "masked-lm"),
        ("modernbert", "sequence-classification"),
        ("llama", "sequence-classification"),
        ("t5", "seq2seq-lm"),
        ("mixtral", "causal-lm"),
    ],
)
def test_every_task_trains_on_real_lengths(model: str, task: str, attempt: Try) -> None:
    result = attempt(model=MODELS[model], task=task, lengths=VERSES)
    assert result.outcome is Outcome.OK, result.reason
    assert result.measurement is not None and result.measurement.padding_share > 0


def test_images_are_classified(attempt: Try) -> None:
    result = attempt(model=MODELS["vit"], task="image-classification", lengths=SampleLengths.fixed(1))
    assert result.outcome is Outcome.OK, result.reason


def test_a_model_with_attention_dropout_trains_flattened_on_a_cpu(attempt: Try) -> None:
    result = attempt(model=MODELS["gpt2"], lengths=VERSES, batch_layout="flattened", attention="torch_varlen")
    assert result.outcome is Outcome.OK, result.reason


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("checkpointing", ["off", "every_2nd"])
def test_adapters_train_beside_frozen_weights(method: str, checkpointing: str, attempt: Try) -> None:
    result = attempt(method=method, precision="bf16", activation_checkpointing=checkpointing, lengths=VERSES)
    assert result.outcome is Outcome.OK, result.reason
    assert result.measurement is not None and None not in result.measurement.losses


@pytest.mark.parametrize(
    ("model", "task"), [("t5", "seq2seq-lm"), ("bert", "sequence-classification"), ("vit", "image-classification")]
)
def test_adapters_fit_other_tasks(model: str, task: str, attempt: Try) -> None:
    lengths = SampleLengths.fixed(1) if task == "image-classification" else VERSES
    result = attempt(model=MODELS[model], task=task, method="lora", lengths=lengths)
    assert result.outcome is Outcome.OK, result.reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [("optimizer", "adamw_torch_8bit"), ("optimizer", "adamw_torch_4bit"), ("compile", "inductor")],
)
def test_what_is_compiled_trains_on_a_cpu_too(name: str, value: str, attempt: Try) -> None:
    result = attempt(plan=QUICK, **{name: value})
    assert result.measurement is not None, result.reason
    assert result.measurement.starting_seconds > 5 * result.measurement.step_seconds
    assert result.measurement.late_compilations == 0


def test_a_workload_is_part_of_what_a_worker_is_told(tmp_path: Path) -> None:
    """Samples, method and adapters travel in the job file: a trial replayed by hand is the same trial."""
    situation = make_situation(lengths=VERSES, method="lora", missing={})
    job = TrialJob(
        model=ModelSource(name="m", origin="folder", config={}),
        workload=situation.workload,
        recipe=recipe_for(make_config(), situation),
        device="cpu",
        memory=MemoryPlan(own_bytes=1),
        plan=QUICK,
    )
    write_document(tmp_path / "job.json", job)
    assert read_job(tmp_path / "job.json") == job
