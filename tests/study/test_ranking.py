import dataclasses

import pytest

from autofit.errors import UserError
from autofit.knobs import KNOBS
from autofit.knobs.numerics import Numerics
from autofit.study.evidence import NO_EVIDENCE, Evidence
from autofit.study.outcome import Outcome
from autofit.study.ranking import find_reference, rank
from autofit.study.trial import Role
from tests.doubles import make_trial
from tests.export.test_training_arguments import make_result


def test_the_fastest_comes_first_and_only_ok_is_ranked() -> None:
    trials = [
        make_trial(0, seconds=2.0),
        make_trial(1, seconds=1.0, attention="eager"),
        make_trial(2, outcome=Outcome.OOM, precision="bf16"),
        make_trial(3, outcome=Outcome.SLOWER, optimizer="adamw_torch"),
    ]
    ranking = rank(trials)
    assert [each.trial.number for each in ranking.ranked] == [1, 0]
    assert [each.rank for each in ranking.ranked] == [1, 2]
    assert {trial.number for trial in ranking.failed} == {2, 3}


def test_a_tie_inside_the_noise_goes_to_the_more_exact_then_to_the_plainer() -> None:
    trials = [
        make_trial(0, seconds=1.000, precision="bf16", jitter=0.02),
        make_trial(1, seconds=1.005, attention="eager", jitter=0.02),
        make_trial(2, seconds=1.010, jitter=0.02),
        make_trial(3, seconds=1.500, optimizer="adamw_torch", jitter=0.02),
    ]
    ranking = rank(trials)
    assert [each.trial.number for each in ranking.ranked] == [2, 1, 0, 3]
    assert [each.tied_with_first for each in ranking.ranked] == [True, True, True, False]


def test_without_noise_the_faster_wins_however_close() -> None:
    trials = [make_trial(0, seconds=1.0, precision="bf16"), make_trial(1, seconds=1.005)]
    assert rank(trials).ranked[0].trial.number == 0


def test_a_noisy_machine_does_not_make_everything_a_tie() -> None:
    trials = [
        make_trial(0, seconds=1.0, jitter=0.5, precision="bf16"),
        make_trial(1, seconds=1.1, jitter=0.5),
    ]
    assert rank(trials).ranked[0].trial.number == 0


def test_a_confirmation_replaces_the_short_measurement() -> None:
    short = make_trial(0, seconds=1.0, whole=False)
    other = make_trial(1, seconds=1.2, whole=False, attention="eager")
    confirmed = make_trial(2, seconds=1.5, whole=True)
    ranking = rank([short, other, confirmed])
    assert {each.trial.number for each in ranking.ranked} == {1, 2}
    # Its whole run took 1.5 times its short trial's estimate; so will the other's, as far as anybody knows.
    assert ranking.ranked[0].trial.number == 2 and ranking.best is not None and ranking.best.trial.number == 2


def test_what_whole_runs_took_over_short_estimates_in_one_precision_says_nothing_of_another() -> None:
    trials = [
        make_trial(0, seconds=1.0, whole=False, precision="bf16"),
        make_trial(1, seconds=1.2, whole=False, precision="bf16", attention="eager"),
        make_trial(2, seconds=1.4, whole=False),
        make_trial(3, seconds=1.9, whole=True, precision="bf16"),
    ]
    assert [each.trial.number for each in rank(trials).ranked] == [2, 3, 1]


def test_a_finalist_that_does_not_fit_whole_is_no_longer_ranked() -> None:
    short = make_trial(0, seconds=1.0, whole=False)
    failed = make_trial(1, outcome=Outcome.OOM, whole=True)
    ranking = rank([short, failed])
    assert ranking.best is None and [trial.number for trial in ranking.failed] == [1]


def test_the_reference_is_the_default_s_largest_micro_batch_up_to_eight_in_its_fastest_precision() -> None:
    trials = [
        make_trial(0, seconds=1.0, micro_batch_size=32, accumulation_steps=1),
        make_trial(1, seconds=3.0, micro_batch_size=8, accumulation_steps=4),
        make_trial(2, seconds=2.0, micro_batch_size=8, accumulation_steps=4, precision="bf16"),
        make_trial(3, seconds=1.5, micro_batch_size=4, accumulation_steps=8, precision="bf16"),
        make_trial(4, seconds=0.5, micro_batch_size=8, accumulation_steps=4, optimizer="adamw_8bit"),
    ]
    reference = find_reference(trials, Evidence(trials))
    assert reference is not None and reference.number == 2
    ranking = rank(trials)
    speedups = {each.trial.number: each.speedup for each in ranking.ranked}
    assert speedups[2] == 1.0 and speedups[0] == 2.0 and speedups[4] == 4.0


def test_without_a_measured_reference_there_is_no_speed_up() -> None:
    ranking = rank([make_trial(0, attention="eager")])
    assert ranking.reference is None and ranking.ranked[0].speedup is None


def test_every_row_carries_its_class() -> None:
    ranking = rank([make_trial(0, precision="bf16", optimizer="adamw_8bit")])
    assert ranking.ranked[0].numerics == (Numerics.MIXED, Numerics.QUANTIZED_STATE)


def test_nothing_measured_ranks_to_nothing() -> None:
    assert rank([]).best is None


def test_the_reference_differs_in_no_knob_but_precision() -> None:
    for row in KNOBS:
        for choice in row.choices:
            if row.name != "precision" and choice.value != row.reference:
                trials = [make_trial(0, **{row.name: choice.value})]
                assert find_reference(trials, Evidence(trials)) is None


@pytest.mark.parametrize("outcome", [each for each in Outcome if each not in NO_EVIDENCE and each is not Outcome.OK])
def test_a_whole_run_that_failed_takes_its_configuration_out_whatever_it_failed_of(outcome: Outcome) -> None:
    failed = make_trial(1, outcome=outcome, reason="could not create a primitive")
    for trials in ([make_trial(0, whole=False), failed], [make_trial(0), failed, make_trial(2)]):
        ranking = rank(trials)
        assert ranking.best is None and ranking.failed == (failed,)


@pytest.mark.parametrize("outcome", NO_EVIDENCE)
def test_what_was_not_run_to_its_end_by_no_fault_of_its_own_takes_nothing_away(outcome: Outcome) -> None:
    assert rank([make_trial(0, whole=False), make_trial(1, outcome=outcome)]).best is not None


def test_what_ran_whole_is_recommended_before_what_a_short_trial_says_is_faster() -> None:
    trials = [make_trial(0, seconds=1.0), make_trial(1, seconds=0.5, whole=False, attention="eager")]
    ranking = rank(trials)
    assert [each.trial.number for each in ranking.ranked] == [1, 0]
    assert ranking.best is not None and ranking.best.trial.number == 0 and ranking.best.is_confirmed


def test_a_speed_up_is_over_the_rounds_that_both_ran() -> None:
    trials = [
        make_trial(0, seconds=2.0, number_of_round=0),
        make_trial(1, seconds=1.0, number_of_round=0, attention="eager"),
        # The machine was faster later, and only the second one ran.
        make_trial(2, seconds=0.5, number_of_round=1, attention="eager"),
    ]
    best = rank(trials).best
    assert best is not None and best.speedup == pytest.approx(2.0)
    assert best.against_reference is not None and best.against_reference.rounds == 1


def test_rounds_turn_by_turn_tell_apart_what_drift_would_hide() -> None:
    trials = []
    for number, drift in enumerate((1.0, 1.2, 0.9)):
        trials.append(make_trial(2 * number, seconds=1.00 * drift, number_of_round=number))
        slower = make_trial(2 * number + 1, seconds=1.03 * drift, attention="eager", number_of_round=number)
        trials.append(slower)
    ranking = rank(trials)
    assert [each.tied_with_first for each in ranking.ranked] == [True, False]
    assert ranking.best is not None and ranking.best.trial.config["attention"] == "sdpa"


def test_one_round_that_ran_out_of_memory_says_more_than_those_that_did_not() -> None:
    trials = [make_trial(0), make_trial(1, outcome=Outcome.OOM), make_trial(2)]
    assert rank(trials).best is None


def test_a_baseline_is_the_reference_and_one_of_a_looser_class_is_never_recommended() -> None:
    loose = dataclasses.replace(make_trial(0, seconds=0.5, precision="pure_bf16"), role=Role.OUTSIDE)
    ranking = rank([loose, make_trial(1, seconds=1.0), make_trial(2, seconds=2.0, attention="eager")])
    assert ranking.reference is not None and ranking.reference.number == 0
    assert ranking.ranked[0].trial.number == 0
    assert ranking.best is not None and ranking.best.trial.number == 1
    assert ranking.best.speedup == pytest.approx(0.5)


def test_a_chosen_rank_takes_the_place_of_the_recommendation_with_its_own_settings_and_doubts() -> None:
    trials = (make_trial(0, seconds=1.0), make_trial(1, seconds=2.0, whole=False, attention="eager"))
    result = make_result(*trials)
    chosen = dataclasses.replace(result, rank=2)
    assert result.recommendation is not None and chosen.recommendation is not None
    assert result.recommendation.model_kwargs["attn_implementation"] == "sdpa"
    assert chosen.recommendation.model_kwargs["attn_implementation"] == "eager"
    assert result.recommendation.is_confirmed and not chosen.recommendation.is_confirmed
    said = " ".join([*chosen.recommendation.reasons, chosen.recommendation.warning])
    assert "1 of the measured configurations ranks before it" in said
    assert "may be faster" not in said and "is recommended" not in said and "--budget" not in said
    with pytest.raises(UserError, match="it has ranks 1 to 2"):
        _ = dataclasses.replace(result, rank=3).ranking
