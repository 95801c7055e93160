"""Searches around a model and data of one's own from Python: run for real, and refused where trials cannot import."""

from __future__ import annotations

import functools
import sys
import types

import pytest

import autofit
from autofit.errors import UserError
from autofit.own_training import _arguments, _pickled
from tests import parts_of_a_training as parts

pytestmark = pytest.mark.usefixtures("short_measuring")


@pytest.mark.whole
def test_a_module_of_ones_own_is_searched_at_exactly_the_effective_batch_and_found_again() -> None:
    def search() -> autofit.SearchResult:
        return autofit.search_training(
            parts.build_model,
            parts.samples,
            effective_batch=12,
            data_collator=parts.collate,
            compute_loss_func=parts.squared,
            training_arguments={"use_cpu": True, "learning_rate": 1e-3, "remove_unused_columns": False},
            device="cpu",
            max_trials=2,
            fix={"precision": "fp32"},
            keep=["loader"],
        )

    result = search()
    assert result.ranking.best is not None and result.situation.program is not None
    assert result.situation.program.name == "autofit_build_model.py" and result.situation.program.model == "TwoLayers"
    for trial in result.trials:
        assert trial.config.micro_batch_size * trial.config.accumulation_steps == 12
    baseline = next(trial for trial in result.trials if trial.is_baseline)
    assert baseline.config.split == "6 x 2"
    again = search()
    assert again.study == result.study and len(again.trials) == len(result.trials), "nothing is measured twice"


def test_what_trials_could_not_import_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def inside() -> None: ...

    of_notebook = types.FunctionType(parts.build_model.__code__, {"__name__": "__main__"}, "of_notebook")
    of_notebook.__module__, of_notebook.__qualname__ = "__main__", "of_notebook"
    monkeypatch.setattr(sys.modules["__main__"], "of_notebook", of_notebook, raising=False)
    holding = functools.partial(parts.build_model, of_notebook)
    cases = ((of_notebook, "%%writefile"), (holding, "%%writefile"), (lambda: None, "a lambda"), (inside, "inside"))
    for part, reason in cases:
        with pytest.raises(UserError, match=reason):
            autofit.search_training(part, parts.samples, effective_batch=4)
    assert _pickled("train_dataset", ["if __name__ == '__main__': main()"]), "text may speak of it"
    with pytest.raises(UserError, match="train_dataset cannot be copied"):
        autofit.search_training(parts.build_model, (number for number in range(3)), effective_batch=4)


def test_the_arguments_make_the_effective_batch_or_are_refused() -> None:
    def split(effective_batch: int, **given: int) -> tuple[int, int]:
        arguments = _arguments(effective_batch, given)
        return arguments["per_device_train_batch_size"], arguments["gradient_accumulation_steps"]

    assert split(32) == (8, 4) and split(7) == (7, 1) and split(11) == (1, 11)
    assert split(32, gradient_accumulation_steps=16) == (2, 16)
    assert split(32, per_device_train_batch_size=16) == (16, 2)
    with pytest.raises(UserError, match="make 3 x 10 = 30 samples a step, not effective_batch=32"):
        split(32, per_device_train_batch_size=3)
    with pytest.raises(UserError, match="make 1 x 5 = 5 samples"):
        split(32, gradient_accumulation_steps=5)
