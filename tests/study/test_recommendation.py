"""Sentences that say why a configuration is recommended, from made-up trials whose figures are known."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from autofit.study.outcome import Outcome
from autofit.study.ranking import rank
from autofit.study.recommendation import Recommendation, recommend
from autofit.study.trial import Role, Trial
from tests.doubles import GIB, make_situation, make_trial
from tests.knobs.test_own_program import situation_of


def recommended(*trials: Trial, **situation: Any) -> Recommendation:
    best = recommend(rank(trials), trials, make_situation(**situation))
    assert best is not None
    return best


def reason(best: Recommendation, start: str) -> str:
    """The one reason that opens with these words."""
    (found,) = [each for each in best.reasons if each.startswith(start)]
    return found


def test_nothing_is_recommended_where_nothing_ran() -> None:
    trials = [make_trial(0, outcome=Outcome.OOM)]
    assert recommend(rank(trials), trials, make_situation()) is None


def test_the_arguments_are_those_of_the_best_trial() -> None:
    best = recommended(
        make_trial(0, seconds=2.0), make_trial(1, seconds=1.0, micro_batch_size=16, accumulation_steps=2)
    )
    assert best.trial == 1
    assert best.training_arguments["per_device_train_batch_size"] == 16
    assert best.training_arguments["gradient_accumulation_steps"] == 2


def test_the_speed_is_given_against_the_defaults() -> None:
    best = recommended(
        make_trial(0, seconds=2.0), make_trial(1, seconds=1.0, precision="fp32", attention="flash_attention_2")
    )
    assert best.reasons[0].startswith("2.00x ±0% the speed of TrainingArguments' defaults (8 x 4, fp32: 2.00 s a step")


def test_the_speed_is_given_against_the_users_own_settings_where_they_ran() -> None:
    own = make_trial(0, seconds=3.0, role=Role.BASELINE, micro_batch_size=4, accumulation_steps=8)
    best = recommended(own, make_trial(1, seconds=1.0))
    assert best.reasons[0].startswith("3.00x ±0% the speed of your settings (4 x 8, fp32: 3.00 s a step")


def test_own_settings_that_did_not_fit_are_named_as_what_is_missing() -> None:
    own = make_trial(0, outcome=Outcome.OOM, role=Role.BASELINE, micro_batch_size=32, accumulation_steps=1)
    best = recommended(own, make_trial(1, seconds=1.0, optimizer="adamw_torch"))
    assert (
        best.reasons[0]
        == "there is no reference to compare with: your settings (32 x 1) were not measured: out of memory"
    )


def test_own_settings_that_the_search_leaves_out_are_compared_with_and_never_recommended() -> None:
    own = make_trial(0, seconds=0.5, role=Role.OUTSIDE, precision="pure_bf16")
    best = recommended(own, make_trial(1, seconds=1.0))
    assert best.trial == 1 and best.reasons[0].endswith("which this search leaves out (numerics: pure)")
    # Left out by --fix, say: its numerics are no reason then.
    for precision in ("fp32", "bf16"):
        other = make_trial(0, seconds=0.5, role=Role.OUTSIDE, precision=precision)
        best = recommended(other, make_trial(1, seconds=1.0, precision="bf16", optimizer="adamw_torch"))
        assert best.reasons[0].endswith("which this search leaves out")


def test_a_knobs_other_value_is_given_only_where_nothing_else_differs() -> None:
    best = recommended(
        make_trial(0, seconds=1.0),
        make_trial(1, seconds=1.5, attention="eager", needed=2 * GIB),
        make_trial(2, seconds=1.2, attention="eager", optimizer="adamw_torch"),
    )
    assert (
        reason(best, "attention=sdpa") == "attention=sdpa: eager is 50% slower (1 round, ±0%) and needs 1.00 GiB more"
    )
    assert not [each for each in best.reasons if each.startswith("optimizer=")]


def test_a_difference_that_the_noise_hides_is_called_equal_only_where_the_noise_is_small() -> None:
    def said(seconds: float, jitter: float) -> str:
        best = recommended(
            make_trial(0, seconds=1.0, jitter=jitter),
            make_trial(1, seconds=seconds, jitter=jitter, attention="eager", needed=2 * GIB),
        )
        return reason(best, "attention=sdpa")

    assert said(1.01, 0.01).startswith("attention=sdpa: eager is as fast within the noise (1 round, +1% ±")
    assert said(1.2, 0.3).startswith("attention=sdpa: eager is too noisy to compare (1 round, +20% ±")


def test_micro_batches_that_do_not_fit_are_named() -> None:
    best = recommended(
        make_trial(0, seconds=1.0),
        make_trial(1, outcome=Outcome.OOM, micro_batch_size=16, accumulation_steps=2),
        make_trial(2, outcome=Outcome.OOM, micro_batch_size=32, accumulation_steps=1),
    )
    assert reason(best, "micro-batch 8 x 4") == "micro-batch 8 x 4 accumulation: 16 does not fit"


def test_what_it_needs_is_given_of_what_the_limit_leaves() -> None:
    best = recommended(make_trial(0, needed=8 * GIB), memory_bytes=20 * GIB, headroom=0.1)
    assert reason(best, "it needs") == (
        "it needs 8.00 GiB of the 18.0 GiB that the limit less 10% headroom leaves, with an evaluation "
        "batch of 8 while the optimizer state is alive"
    )


def test_compiling_pays_after_the_steps_that_make_up_for_its_start() -> None:
    compiled = make_trial(1, seconds=1.0, compile="inductor")
    assert compiled.measurement is not None
    best = recommended(make_trial(0, seconds=1.5), compiled)
    steps = math.ceil(compiled.measurement.starting_seconds / 0.5)
    assert f"which pays after {steps} optimizer steps" in reason(best, "compiling takes")


def test_what_ran_short_only_is_called_not_confirmed() -> None:
    best = recommended(make_trial(0, seconds=1.0, whole=False))
    assert best.warning.startswith("NOT CONFIRMED: it got through a short trial only")
    assert not recommended(make_trial(0, seconds=1.0)).warning


def test_a_faster_short_trial_is_named_beside_what_ran_whole() -> None:
    best = recommended(make_trial(0, seconds=1.0, whole=False, attention="eager"), make_trial(1, seconds=3.0))
    assert best.trial == 1
    assert reason(best, "rank 1").startswith("rank 1 may be faster by a short trial, and has not run whole")


def test_a_loss_that_is_a_mean_over_each_micro_batch_is_said() -> None:
    situation = make_situation()
    situation = dataclasses.replace(situation, model=dataclasses.replace(situation.model, counts_items=False))
    trials = [make_trial(0)]
    best = recommend(rank(trials), trials, situation)
    assert best is not None and reason(best, "the loss of llama models is a mean over each micro-batch")


def test_samples_that_take_long_to_load_are_said_with_what_to_change() -> None:
    trial = make_trial(0)
    measurement = trial.measurement
    assert measurement is not None
    (window,) = measurement.windows
    steps = tuple(dataclasses.replace(step, fetch=step.total / 4) for step in window.steps)
    slow = dataclasses.replace(measurement, windows=(dataclasses.replace(window, steps=steps),))
    trial = dataclasses.replace(trial, measurement=slow)
    said = reason(recommended(trial), "collating and moving")
    assert (
        said == "collating and moving samples takes 20% of a step: try dataloader_num_workers=2 with your own data set"
    )

    # In a program, workers were searched, or there is a reason against them.
    best = recommend(rank([trial]), [trial], situation_of())
    assert best is not None and reason(best, "loading samples") == "loading samples takes 20% of a step"
