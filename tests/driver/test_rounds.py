"""Whole runs side by side: the configurations that are chosen, and the end of the rounds."""

from __future__ import annotations

import dataclasses

from autofit.device.kinds import kind_of
from autofit.driver.rounds import MOST_REPEATED, MOST_ROUNDS, finalists, next_round, rounds_to_come, to_repeat
from autofit.study.evidence import evidence_by_config
from autofit.study.outcome import Outcome
from autofit.study.trial import Trial
from tests.doubles import make_trial
from tests.study.test_comparison import disturbed

CPU, GPU = kind_of("cpu"), kind_of("cuda")


def rounds(*seconds: tuple[float, ...], cores: float = 0.0) -> list[Trial]:
    """Whole trials of two configurations; an entry for each round."""
    trials = []
    for number, pair in enumerate(seconds):
        for each, attention in zip(pair, ("sdpa", "eager"), strict=False):
            trial = make_trial(len(trials), seconds=each, attention=attention, number_of_round=number)
            assert trial.measurement is not None
            trials.append(dataclasses.replace(trial, measurement=disturbed(trial.measurement, cores)))
    return trials


def test_finalists_are_the_first_its_ties_and_the_reference() -> None:
    trials = [
        make_trial(0, seconds=2.0, whole=False),
        make_trial(1, seconds=1.00, whole=False, jitter=0.05, attention="eager"),
        make_trial(2, seconds=1.01, whole=False, jitter=0.05, optimizer="adamw_torch"),
        make_trial(3, seconds=1.5, whole=False, precision="bf16", attention="eager"),
    ]
    assert {trial.number for trial in finalists(trials)} == {0, 1, 2}
    assert finalists([make_trial(0, outcome=Outcome.OOM)]) == []


def test_a_short_trial_that_was_faster_than_what_ran_whole_has_to_run_whole_too() -> None:
    trials = [*rounds((1.5, 1.0), (1.5, 1.0), (1.5, 1.0)), make_trial(9, seconds=0.5, whole=False, precision="bf16")]
    coming = next_round(trials, CPU)
    assert coming is not None and any(trial.number == 9 for trial in coming.finalists)


def test_a_lone_candidate_runs_whole_once_and_not_again() -> None:
    short = make_trial(0, seconds=1.0, whole=False)
    assert len(rounds_to_come([short], CPU)) == 1
    whole_by_chance = make_trial(0, seconds=1.0, whole=False, accumulation_steps=1, micro_batch_size=32)
    assert next_round([whole_by_chance], CPU) is not None
    coming = next_round([short], CPU)
    assert coming is not None and [trial.number for trial in coming.finalists] == [0]
    assert next_round([short, make_trial(1, seconds=1.0, number_of_round=0)], CPU) is None


def test_rounds_are_counted_where_all_finalists_ran() -> None:
    complete = rounds((1.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    assert next_round(complete, CPU) is None
    # The search was killed within the third round: it is repeated as a whole.
    coming = next_round(complete[:-1], CPU)
    assert coming is not None and coming.number == 3 and len(coming.finalists) == 2


def test_rounds_that_others_disturbed_are_repeated_up_to_a_limit() -> None:
    assert next_round(rounds((1.0, 1.0), (1.0, 1.0), (1.0, 1.0), cores=1.0), CPU) is not None
    assert next_round(rounds(*[(1.0, 1.0)] * MOST_ROUNDS, cores=1.0), CPU) is None


def test_every_second_round_runs_in_the_opposite_order() -> None:
    first, second = (next_round(rounds(*[(1.0, 1.0)] * number), CPU) for number in (1, 2))
    assert first is not None and second is not None
    assert [trial.config for trial in first.finalists] == [trial.config for trial in reversed(second.finalists)]


def test_on_an_accelerator_rounds_go_on_until_they_are_steady() -> None:
    def pairs(*seconds: float) -> list[Trial]:
        return rounds(*((each * 1.5, each) for each in seconds))

    assert next_round(pairs(1.0, 1.2, 1.4), CPU) is None
    assert next_round(pairs(1.0, 1.0, 1.1), GPU) is not None
    assert next_round(pairs(1.0, 1.1, 1.105), GPU) is None
    assert next_round(pairs(1.0, 1.1, 1.2, 1.3, 1.4, 1.5), GPU) is None
    assert next_round(pairs(10.0, 10.0, 11.0), GPU) is None


def short(number: int, seconds: float, cores: float, **changes: object) -> Trial:
    """A short trial beside which others kept ``cores`` busy."""
    trial = make_trial(number, seconds=seconds, whole=False, **changes)
    assert trial.measurement is not None
    return dataclasses.replace(trial, measurement=disturbed(trial.measurement, cores))


def test_a_disturbed_short_trial_that_might_be_the_fastest_is_run_again_once() -> None:
    best, misled = short(0, 1.0, 0.0), short(1, 1.6, 1.0, attention="eager")
    hopeless = short(2, 2.5, 1.0, precision="bf16")
    assert to_repeat([best, misled, hopeless]) == misled
    again = short(3, 0.8, 0.0, attention="eager")
    assert to_repeat([best, misled, hopeless, again]) is None
    assert to_repeat([best, short(1, 1.6, 0.1, attention="eager")]) is None


def test_on_a_machine_that_stays_busy_a_few_short_trials_are_run_again() -> None:
    trials = [short(number, 1.0 + number / 100, 1.0, micro_batch_size=number + 1) for number in range(8)]
    repeated = 0
    while (trial := to_repeat(trials)) is not None:
        repeated += 1
        trials.append(dataclasses.replace(trial, number=len(trials)))
    assert repeated == MOST_REPEATED


def test_of_two_short_trials_the_quieter_one_is_the_evidence() -> None:
    quiet, loud = short(0, 1.0, 0.0), short(1, 2.0, 1.0)
    assert list(evidence_by_config([quiet, loud]).values()) == [quiet]
    assert list(evidence_by_config([loud, quiet]).values()) == [quiet]
