"""Verdicts for a smaller card from recorded peaks."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from autofit.job.situation import Limits
from autofit.study.measurement import Memory
from autofit.study.outcome import Outcome
from autofit.units import GIB
from benchmarks.search.record_sweep import SWEEPS
from benchmarks.search.smaller_card import on_smaller_card, undecided
from benchmarks.search.sweep import Answer, Sweep, read_sweep

LIMITS = Limits(memory_bytes=10 * GIB, headroom=0.0)


def answer(allocated: float, reserved: float, outcome: Outcome = Outcome.OK) -> Answer:
    memory = Memory(
        peak_allocated=int(allocated * GIB), peak_reserved=int(reserved * GIB), context=GIB, paged_state=0, cap=80 * GIB
    )
    ran = outcome is Outcome.OK
    return Answer(outcome=outcome, samples=(1.0, 1.0) if ran else (), memory=memory if ran else None, wall_seconds=5.0)


@pytest.fixture
def sweep() -> Sweep:
    """A recorded sweep whose first rows are answered as a card would: fits, does not, may or may not, broken."""
    recorded = read_sweep(SWEEPS / "llama-fixed.json.gz")
    answers = [answer(4, 9), answer(9.1, 9.5), answer(8.5, 9.5), answer(0, 0, Outcome.ERROR)]
    rows = [
        msgspec.structs.replace(row, answers=(each,))
        for row, each in zip(recorded.rows, [*answers, *[answer(1, 1)] * len(recorded.rows)], strict=False)
    ]
    return Sweep(
        name="card", situation=recorded.situation, request=recorded.request, rows=tuple(rows), about=recorded.about
    )


def test_only_what_lies_between_allocated_and_reserved_is_run_again(sweep: Sweep) -> None:
    assert undecided(sweep, LIMITS) == [sweep.rows[2].config]
    assert undecided(sweep, replace(LIMITS, memory_bytes=80 * GIB)) == []


def test_the_smaller_card_answers_as_the_peaks_say(sweep: Sweep) -> None:
    again = {sweep.rows[2].config: (answer(8.5, 9.0),)}
    predictions = {row.config: None for row in sweep.rows}
    smaller = on_smaller_card(sweep, LIMITS, again=again, predictions=predictions)
    fits, does_not, tried, broken, *others = smaller.rows
    assert fits.answers == sweep.rows[0].answers
    assert does_not.answers[0].outcome is Outcome.OOM and "derived" in does_not.answers[0].reason
    assert 0 < does_not.answers[0].wall_seconds < 5.0
    assert tried.answers == again[tried.config]
    assert broken.answers[0].outcome is Outcome.ERROR
    assert smaller.situation.limits == LIMITS and smaller.name == "card-10GiB"
    assert all(row.answers[0].outcome is Outcome.OK for row in others)


def test_what_has_to_run_again_cannot_be_left_out(sweep: Sweep) -> None:
    with pytest.raises(KeyError):
        on_smaller_card(sweep, LIMITS, again={}, predictions={row.config: None for row in sweep.rows})
