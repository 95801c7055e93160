"""Losses of a program's own, told by what their code does with the number of items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainingArguments

from autofit.runtime.loss import scales_by_items, sums_means
from tests.runtime.test_recovery import samples, small_model


class LeavesItUnused(Trainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class HandsItOn(Trainer):
    def compute_loss(self, *args: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        return super().compute_loss(*args, num_items_in_batch=num_items_in_batch, **kwargs)


class Divides(LeavesItUnused):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return model(**inputs).loss / self.args.gradient_accumulation_steps


class HandsAllOn(Trainer):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


def trainer_of(cls: type[Trainer], folder: Path, **given: Any) -> Trainer:
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to="none")
    return cls(model=small_model(), args=arguments, train_dataset=samples(), **given)


@pytest.mark.parametrize(
    ("cls", "sums"),
    [(Trainer, False), (LeavesItUnused, True), (HandsItOn, False), (HandsAllOn, False), (Divides, False)],
)
def test_means_that_nobody_divides_are_told_from_the_code(tmp_path: Path, cls: type[Trainer], sums: bool) -> None:
    trainer = trainer_of(cls, tmp_path)
    assert sums_means(trainer) is sums
    for said in (True, False):
        trainer.loss_is_scaled_for_ga = said
        assert not sums_means(trainer) and scales_by_items(trainer) is said
    trainer.loss_is_scaled_for_ga = None
    # For a model that counts no items the Trainer divides by the number of micro-batches.
    trainer.model_accepts_loss_kwargs = False
    assert not sums_means(trainer)


def test_a_loss_function_that_is_given_counts_items_itself(tmp_path: Path) -> None:
    assert not sums_means(trainer_of(Trainer, tmp_path, compute_loss_func=lambda *args, **kwargs: None))
