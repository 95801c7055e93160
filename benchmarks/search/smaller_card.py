"""Verdicts for a smaller card from a sweep without a limit: most verdicts follow from the recorded peaks.

A configuration that reserved no more than the limit runs there as it ran; one that had more allocated at once runs out
of memory. Only between the two, where the allocator would have to give back what it keeps, nothing is known: these are
to be run again under the limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autofit.job.situation import Limits
from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome
from autofit.study.prediction import Prediction
from autofit.units import format_bytes
from benchmarks.search.sweep import Answer, Row, Sweep


def undecided(sweep: Sweep, limits: Limits) -> list[TrainConfig]:
    """Configurations that have to run again under the limit."""
    return [row.config for row in sweep.rows if any(_verdict(answer, limits) is None for answer in row.answers)]


def on_smaller_card(
    sweep: Sweep,
    limits: Limits,
    *,
    again: Mapping[TrainConfig, Sequence[Answer]],
    predictions: Mapping[TrainConfig, Prediction | None],
) -> Sweep:
    """The sweep as the smaller card would have answered; ``again`` are the answers under the limit.

    Raises KeyError where one is missing. An out-of-memory that is derived costs what the trial took around its steps.
    """
    rows = []
    for row in sweep.rows:
        answers: list[Answer] = []
        for answer in row.answers:
            fits = _verdict(answer, limits)
            if fits is None:
                answers = list(again[row.config])
                break
            answers.append(answer if fits else _out_of_memory(answer))
        rows.append(Row(values=row.values, answers=tuple(answers), prediction=predictions[row.config]))
    gibibytes = limits.memory_bytes / 2**30
    return Sweep(
        name=f"{sweep.name}-{gibibytes:g}GiB",
        situation=replace(sweep.situation, limits=limits),
        request=sweep.request,
        rows=tuple(rows),
        about=sweep.about,
    )


def _verdict(answer: Answer, limits: Limits) -> bool | None:
    """True if it fits; None where the recorded peaks do not say."""
    memory = answer.memory
    if answer.outcome is not Outcome.OK or memory is None:
        return True  # what failed without a limit fails in the same way with one
    beside = memory.context + memory.paged_state
    if memory.peak_reserved + beside <= limits.usable_bytes:
        return True
    return False if memory.peak_allocated + beside > limits.usable_bytes else None


def _out_of_memory(answer: Answer) -> Answer:
    assert answer.memory is not None
    timed = sum(answer.samples)
    return Answer(
        outcome=Outcome.OOM,
        reason=f"derived: {format_bytes(answer.memory.peak_allocated)} were allocated at once on a larger card",
        wall_seconds=max(answer.wall_seconds - timed, 0.2 * answer.wall_seconds),
    )
