"""Taking part in a search that somebody else leads: claim a trial, run it, keep it, and again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Protocol

from autofit.driver.crew import POLL_SECONDS, Assignment
from autofit.errors import UserError
from autofit.job.record import StudyRecord
from autofit.job.situation import Situation
from autofit.study.queue import Claimed, Queue
from autofit.study.roster import RUNNER, Roster
from autofit.study.storage import HEARTBEAT_SECONDS
from autofit.study.store import Study
from autofit.trial.runner import Runner
from autofit.units import format_seconds

IDLE_GROWTH, LONGEST_PAUSE_SECONDS = 1.2, 1.0
"""Who has nothing to do asks more and more seldom: hundreds of them share a database."""


class Works(Protocol):
    """Source of the runner of each trial."""

    def runner(self, deadline: float | None) -> Runner:
        """The runner of a trial that has to end at ``deadline`` (``time.monotonic``)."""


def take_part(
    study: Study,
    situation: Situation,
    works: Works,
    device: str,
    *,
    patience_seconds: float,
    say: Callable[[str], None],
) -> str:
    """Run trials of a study until its search is over; the reason for leaving, as a sentence's end.

    ``device`` is its label here. Without anybody who leads the search, waits for ``patience_seconds``.
    """
    queue, roster = Queue(study), Roster(study)
    with roster.joined(RUNNER, device) as membership:
        last_led = last_looked = time.monotonic()
        was_led = False
        pause = POLL_SECONDS
        while True:
            claimed = queue.claim(membership.number)
            if claimed is not None:
                _run(study, situation, works, claimed, say)
                last_led = time.monotonic()
                pause = POLL_SECONDS
                continue
            now = time.monotonic()
            if now - last_looked > HEARTBEAT_SECONDS:
                last_looked = now
                if roster.leader() is not None:
                    was_led, last_led = True, now
                elif was_led and study.stopped:
                    return "the search is over"
            if now - last_led > patience_seconds:
                return f"nobody has led the search for {format_seconds(patience_seconds)}"
            time.sleep(pause)
            pause = min(IDLE_GROWTH * pause, LONGEST_PAUSE_SECONDS)


def _run(study: Study, situation: Situation, works: Works, claimed: Claimed, say: Callable[[str], None]) -> None:
    assignment = Assignment.of(claimed.assignment)
    left = assignment.seconds_left
    runner = works.runner(None if left is None else time.monotonic() + left)
    try:
        trial = assignment.run(runner, situation, claimed.number, claimed.config)
    except BaseException:
        with contextlib.suppress(Exception):
            study.give_up(claimed.number)
        raise
    study.finish(trial)
    say(f"Trial {trial.number}: {trial.outcome.value}.")


def check_that_it_is_the_same(study: StudyRecord, here: StudyRecord) -> None:
    """Raises UserError where measurements made here would not be of the study: another card, other versions."""
    differences = [
        f"{what} {_shown(theirs)} there and {_shown(ours)} here"
        for what, theirs, ours in _compared(study, here)
        if theirs != ours
    ]
    if differences:
        raise UserError(
            f"This machine's measurements would not be comparable with the study's: {'; '.join(differences)}. Search "
            "here in a study of its own, or make the two alike."
        )


def _compared(study: StudyRecord, here: StudyRecord) -> list[tuple[str, object, object]]:
    names = sorted({*study.versions, *here.versions})
    variables = sorted({*study.environment, *here.environment})
    return [
        ("the device is", study.device.name, here.device.name),
        ("its memory is", study.device.memory_bytes, here.device.memory_bytes),
        *((f"{name} is", study.versions.get(name), here.versions.get(name)) for name in names),
        *((f"{name} is", study.environment.get(name), here.environment.get(name)) for name in variables),
    ]


def _shown(value: object) -> str:
    return "missing" if value is None else str(value)
