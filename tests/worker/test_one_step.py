"""Same training, proved: loss and gradients of one effective batch, however it is cut, padded or recomputed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, DataCollatorWithFlattening, Trainer, set_seed

from autofit.job.lengths import SampleLengths
from autofit.job.tasks import task_named
from autofit.knobs.recipe import recipe_for
from autofit.trial.equivalence import compare, plainest
from autofit.trial.protocol import StepResult
from autofit.worker.build import build_collator, build_model
from autofit.worker.made_up_samples import SamplesByLength
from autofit.worker.one_step import step, without_dropout
from tests.conftest import TINY_LLAMA
from tests.doubles import make_config, make_situation

LENGTHS = SampleLengths.of([4, 9, 30, 17, 60, 25, 26, 31, 3, 45])
SITUATION = make_situation(effective_batch=8, lengths=LENGTHS, missing={})


def run(trainer_class: type[Trainer] = Trainer, collator: Any = None, seed: int = 0, **changes: Any) -> StepResult:
    """One step of the tiny llama at an effective batch of 8, with the given settings over a plain 2 x 4."""
    values = {"micro_batch_size": 2, "accumulation_steps": 4, **changes}
    recipe = recipe_for(make_config(**values), SITUATION)
    config = without_dropout(AutoConfig.for_model(**TINY_LLAMA))
    set_seed(seed)
    model = build_model(config, task_named("causal-lm"), "cpu", recipe.model_kwargs, trust_remote_code=False)
    lengths = LENGTHS.frozen_samples(8, seed)[:8]
    source = SamplesByLength(task_named("causal-lm"), config, LENGTHS.longest, seed)
    samples = [source[length] for length in lengths]
    collator = collator or build_collator(recipe, config)
    return step(model, samples, recipe, collator, lengths, seed, trainer_class)


@pytest.fixture(scope="module")
def reference() -> StepResult:
    config = plainest(make_config(micro_batch_size=2, accumulation_steps=4), SITUATION, "fp32")
    assert (config.micro_batch_size, config.accumulation_steps) == (8, 1) and config["attention"] == "eager"
    return run(**dict(config))


SAME = [
    {"micro_batch_size": 1, "accumulation_steps": 8},
    {"micro_batch_size": 4, "accumulation_steps": 2},
    {"attention": "sdpa"},
    {"activation_checkpointing": "every_layer"},
    {"activation_checkpointing": "every_2nd"},
    {"batch_layout": "fixed_padding"},
    {"batch_layout": "batch_rebalance"},
    {"batch_layout": "group_by_length"},
    {"batch_layout": "packed"},
    {"batch_layout": "flattened", "attention": "torch_varlen"},
    {"batch_layout": "flattened", "attention": "torch_varlen", "micro_batch_size": 8, "accumulation_steps": 1},
    {"optimizer": "adafactor"},
]


@pytest.mark.parametrize("changes", SAME, ids=lambda changes: ",".join(map(str, changes.values())))
def test_what_is_called_exact_learns_from_the_same_loss_and_gradients(
    changes: dict[str, Any], reference: StepResult
) -> None:
    comparison = compare("it", run(**changes), "the plainest", reference, "fp32")
    assert comparison.same, comparison.problem


@pytest.mark.parametrize("precision", ["bf16", "pure_bf16"])
def test_fewer_bits_stay_within_their_rounding(precision: str, reference: StepResult) -> None:
    comparison = compare("it", run(precision=precision), "fp32", reference, precision, 2.0)
    assert comparison.same, comparison.problem
    assert comparison.loss_difference is not None and comparison.loss_difference > 0


class WithoutNumItems(Trainer):  # type: ignore[misc]
    """Each micro-batch's loss is a mean of its own, and the mean of those is taken: a classic mistake."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False


class WithMaskOfOnes(DataCollatorWithFlattening):
    """An attention mask that says everything may be seen."""

    def __call__(self, features: Any, *args: Any, **kwargs: Any) -> Any:
        batch = super().__call__(features, *args, **kwargs)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        return batch


def test_accumulation_without_a_common_count_of_tokens_is_caught(reference: StepResult) -> None:
    comparison = compare("it", run(WithoutNumItems), "the plainest", reference, "fp32")
    assert not comparison.same and "where the reference's is" in str(comparison.problem)


def test_flattened_with_a_mask_of_ones_is_caught(reference: StepResult) -> None:
    broken = run(collator=WithMaskOfOnes(), batch_layout="flattened", attention="sdpa")
    comparison = compare("it", broken, "the plainest", reference, "fp32")
    assert not comparison.same
    sound = run(collator=DataCollatorWithFlattening(), batch_layout="flattened", attention="sdpa")
    assert compare("it", sound, "the plainest", reference, "fp32").same


def test_another_seed_is_another_batch(reference: StepResult) -> None:
    """The tolerances tell different trainings apart at all."""
    assert not compare("it", run(seed=1), "the plainest", reference, "fp32").same


def test_dropout_is_switched_off_by_whatever_name() -> None:
    gpt2 = without_dropout(AutoConfig.for_model("gpt2"))
    assert gpt2.attn_pdrop == gpt2.embd_pdrop == gpt2.resid_pdrop == 0.0
    bert = without_dropout(AutoConfig.for_model("bert"))
    assert bert.attention_probs_dropout_prob == bert.hidden_dropout_prob == 0.0


def test_every_precision_has_a_tolerance() -> None:
    from autofit.knobs import knob

    assert all(choice.tolerances > (0.0, 0.0) for choice in knob("precision").choices)
