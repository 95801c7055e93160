"""Going on after an out-of-memory error: the training must be the one that never met it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DataCollatorWithFlattening,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from autofit.runtime.recovery import guard, is_out_of_memory, rows_of

STEPS, AT_STEP = 8, 3
SAME = 1e-5
"""Largest difference of a weight: the same sums in another order, through Adam. Measured: 1e-6 and less."""


def small_model(dropout: float = 0.0) -> LlamaForCausalLM:
    set_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=64,
        attention_dropout=dropout,
    )
    return LlamaForCausalLM(config)


def samples(number: int = 64, length: int = 12) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(1, 64, (length,), generator=generator) for _ in range(number)]
    return [{"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)} for row in rows]


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (made up)")


class Card:
    """Memory for micro-batches of ``fits`` rows from a step on; what is larger fails at ``moment``, ``times`` times."""

    def __init__(self, moment: str, fits: int = 4, times: float = math.inf) -> None:
        self.moment, self.fits, self.left = moment, fits, times
        self.rows, self.step, self.failures = 0, 0, 0

    def reached(self, moment: str) -> None:
        if moment == self.moment and self.step >= AT_STEP and self.rows > self.fits and self.left > 0:
            self.left -= 1
            self.failures += 1
            raise out_of_memory()


class OnCard(Trainer):  # type: ignore[misc]
    card: Card | None = None

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self.card is not None:
            tokens = inputs["input_ids"]
            # In a flattened row, what counts is how many samples share it.
            self.card.rows = len(tokens) if len(tokens) > 1 else tokens.numel() // 12
            self.card.step = self.state.global_step + 1
            self.card.reached("forward")
        return loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.card is not None and is_new:
            optimizer.register_step_pre_hook(lambda *hooked: self.card.reached("optimizer"))
        return optimizer


def trained(folder: Path, card: Card | None, **changes: Any) -> tuple[Trainer, dict[str, torch.Tensor]]:
    """A Trainer after its run, and its weights."""
    dropout = changes.pop("dropout", 0.0)
    collator = changes.pop("collator", default_data_collator)
    data = changes.pop("data", None) or samples()
    trainer_class = changes.pop("trainer_class", OnCard)
    arguments = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, **changes}
    trainer = trainer_class(
        model=small_model(dropout),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=STEPS,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            **arguments,
        ),
        train_dataset=data,
        data_collator=collator,
    )
    if card is not None:
        trainer.card = card
        backward = trainer.accelerator.backward

        def limited(loss: Any, **kwargs: Any) -> Any:
            backward(loss, **kwargs)
            card.reached("backward")

        trainer.accelerator.backward = limited
        guard(trainer)
    trainer.train()
    return trainer, {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize("moment", ["forward", "backward"])
def test_a_step_that_ran_out_of_memory_is_trained_in_pieces_as_if_it_had_not(
    tmp_path: Path, moment: str, capfd: pytest.CaptureFixture[str]
) -> None:
    card = Card(moment)
    trainer, weights = trained(tmp_path, card)
    _, undisturbed = trained(tmp_path, None)
    assert card.failures == 1 and trainer.state.global_step == STEPS
    assert difference(weights, undisturbed) < SAME
    assert trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps == 16
    said = capfd.readouterr().err
    assert f"out of memory in step {AT_STEP}" in said and "2 pieces" in said


def test_pieces_are_halved_until_they_fit(tmp_path: Path) -> None:
    card = Card("forward", fits=1)
    _, weights = trained(tmp_path, card)
    assert card.failures == 3
    assert difference(weights, trained(tmp_path, None)[1]) < SAME


def test_one_sample_that_does_not_fit_ends_the_training_with_that_sentence(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a single sample does not fit"):
        trained(tmp_path, Card("forward", fits=0))


def test_an_optimizer_that_ran_out_of_memory_before_it_updated_is_run_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    card = Card("optimizer", times=1)
    _, weights = trained(tmp_path, card)
    assert card.failures == 1
    assert difference(weights, trained(tmp_path, None)[1]) == 0
    assert f"in the optimizer of step {AT_STEP}" in capfd.readouterr().err


def test_the_random_state_of_the_steps_beginning_comes_back(tmp_path: Path) -> None:
    _, weights = trained(tmp_path, Card("backward"), dropout=0.1)
    # Dropout draws otherwise for 4 rows than for 8, as it does when training with 4 x 4 from the start.
    _, undisturbed = trained(tmp_path, None, dropout=0.1)
    _, smaller = trained(tmp_path, None, dropout=0.1, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    assert difference(weights, undisturbed) < 2 * difference(smaller, undisturbed)


def flattened() -> dict[str, Any]:
    """Samples and collator of micro-batches whose samples share one row."""
    data = [{"input_ids": each["input_ids"].tolist(), "labels": each["labels"].tolist()} for each in samples()]
    return {"collator": DataCollatorWithFlattening(return_flash_attn_kwargs=False), "data": data}


@pytest.mark.parametrize("moment", ["forward", "backward"])
def test_samples_that_share_a_row_go_on_from_a_checkpoint_with_half_the_micro_batch(
    tmp_path: Path, moment: str, capfd: pytest.CaptureFixture[str]
) -> None:
    card = Card(moment)
    trainer, weights = trained(tmp_path, card, **flattened())
    _, undisturbed = trained(tmp_path, None, **flattened())
    assert trainer.args.per_device_train_batch_size == 4 and trainer.args.gradient_accumulation_steps == 4
    assert trainer.state.global_step == STEPS and difference(weights, undisturbed) < SAME
    assert "goes on from the step before with 4 x 4 for 8 x 2" in capfd.readouterr().err


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return iter(samples(256))


@pytest.mark.parametrize("moment", ["forward", "backward", "optimizer"])
def test_a_stream_keeps_its_place(tmp_path: Path, moment: str) -> None:
    card = Card(moment, times=1)
    _, weights = trained(tmp_path, card, data=Stream())
    assert card.failures == 1
    assert difference(weights, trained(tmp_path, None, data=Stream())[1]) < SAME


def test_an_optimizer_is_run_again_where_samples_share_a_row_too(tmp_path: Path) -> None:
    card = Card("optimizer", times=1)
    trainer, weights = trained(tmp_path, card, **flattened())
    assert card.failures == 1 and trainer.args.per_device_train_batch_size == 8
    assert difference(weights, trained(tmp_path, None, **flattened())[1]) == 0


def test_other_errors_pass_through(tmp_path: Path) -> None:
    class Broken(OnCard):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("shapes do not match")

    trainer = Broken(
        model=small_model(),
        args=TrainingArguments(output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to="none"),
        train_dataset=samples(),
        data_collator=default_data_collator,
    )
    with pytest.raises(RuntimeError, match="shapes"):
        guard(trainer).train()


def test_an_evaluation_that_does_not_fit_is_repeated_with_half_the_batch(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class SmallEvaluations(OnCard):
        def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if len(inputs["input_ids"]) > 2:
                raise out_of_memory()
            return super().prediction_step(model, inputs, *args, **kwargs)

    trainer = SmallEvaluations(
        model=small_model(),
        args=TrainingArguments(
            output_dir=str(tmp_path), per_device_eval_batch_size=8, use_cpu=True, report_to="none", disable_tqdm=True
        ),
        eval_dataset=samples(16),
        data_collator=default_data_collator,
    )
    assert math.isfinite(guard(trainer).evaluate()["eval_loss"])
    assert trainer.args.per_device_eval_batch_size == 2
    assert "repeated with a batch of 4 for 8" in capfd.readouterr().err


def test_guarding_twice_changes_nothing_more(tmp_path: Path) -> None:
    trainer, _ = trained(tmp_path, Card("none"))
    guarded = type(trainer)
    assert type(guard(trainer)) is guarded and isinstance(trainer, OnCard)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (out_of_memory(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_only_batches_whose_tensors_agree_on_their_rows_can_be_cut() -> None:
    rows = torch.zeros(4, 3)
    assert rows_of({"input_ids": rows, "labels": rows}) == 4
    assert rows_of({"input_ids": rows, "labels": torch.zeros(5)}) is None
    assert rows_of({"input_ids": rows[:1]}) is None
    assert rows_of({"input_ids": rows, "cu_seq_lens_q": torch.zeros(4)}) is None
    assert rows_of([rows]) is None


class OneOfSeveral(OnCard):
    """Its accelerate has cut the parameters into parts, as far as the Trainer says."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self.is_fsdp_enabled = True
        return super().training_step(*args, **kwargs)


def test_a_process_that_holds_a_part_of_the_model_runs_no_pieces_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        trained(tmp_path, Card("forward"), trainer_class=OneOfSeveral)
    assert "only a new start of all can mend that" in capfd.readouterr().err
