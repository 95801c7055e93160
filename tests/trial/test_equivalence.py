"""Comparisons that are made, and their verdicts."""

from __future__ import annotations

from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome
from autofit.trial.equivalence import check_equivalence, compare
from autofit.trial.protocol import StepResult
from tests.doubles import make_config, make_situation

SITUATION = make_situation()


def answers(config: TrainConfig) -> StepResult:
    """Rounding by precision, and one configuration that is off."""
    loss = 6.0 * {"fp32": 1.0, "bf16": 1.002}[str(config["precision"])]
    if config["attention"] == "flash_attention_2":
        loss *= 1.02
    return StepResult(outcome=Outcome.OK, loss=loss, gradient_norm=2.0)


def test_a_precision_is_held_against_fp32_once_and_configurations_against_their_precision() -> None:
    configs = [("a", make_config()), ("b", make_config(precision="bf16")), ("c", make_config(precision="bf16"))]
    found = check_equivalence(configs, SITUATION, answers)
    assert [each.label for each in found] == ["a", "bf16, plainest", "b", "c"]
    assert [each.against for each in found] == ["fp32, plainest", "fp32", "bf16, plainest", "bf16, plainest"]
    assert all(each.same for each in found)


def test_what_differs_is_said_with_both_numbers() -> None:
    config = make_config(precision="bf16", attention="flash_attention_2")
    found = check_equivalence([("trial 3", config)], SITUATION, answers)[-1]
    assert not found.same
    assert found.problem == "its loss is 6.13224 where the reference's is 6.012 (2.0e-02 apart)"


def test_a_run_that_fails_is_a_problem_with_its_reason() -> None:
    def failing(config: TrainConfig) -> StepResult:
        if config["optimizer"] == "adamw_8bit" and config["attention"] == "sdpa":
            return StepResult(outcome=Outcome.ERROR, reason="it broke")
        return answers(config)

    found = check_equivalence([("trial 1", make_config(optimizer="adamw_8bit"))], SITUATION, failing)[-1]
    assert found.problem == "it ended as error: it broke" and found.loss is None


def test_where_the_whole_batch_at_once_does_not_fit_the_reference_is_split() -> None:
    asked = []

    def small(config: TrainConfig) -> StepResult:
        asked.append(config)
        if config.micro_batch_size > 8:
            return StepResult(outcome=Outcome.OOM, reason="no room")
        return answers(config)

    assert check_equivalence([("trial 1", make_config())], SITUATION, small)[-1].same
    assert [config.micro_batch_size for config in asked] == [32, 8, 8]


def test_a_reference_of_nothing_is_compared_without_dividing_by_it() -> None:
    nothing = StepResult(outcome=Outcome.OK, loss=0.0, gradient_norm=0.0)
    something = StepResult(outcome=Outcome.OK, loss=1.0, gradient_norm=0.0)
    assert compare("one", nothing, "two", nothing, "fp32").problem is None
    assert "its loss is 1" in str(compare("one", something, "two", nothing, "fp32").problem)
