"""Who runs a search's trials: this process alone, one after the other, or a crew that shares the study.

A search begins trials while anybody is free, and waits for the next that ends. What is asked of a crew is the same
whether one or many are in it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from autofit.driver.local_members import LocalMembers
from autofit.errors import AutofitError
from autofit.job.situation import Situation
from autofit.knobs.recipe import recipe_for
from autofit.knobs.train_config import TrainConfig
from autofit.study.prediction import Prediction
from autofit.study.queue import Claimed, Outstanding, Queue
from autofit.study.roster import RUNNER, Place, Roster
from autofit.study.store import Study
from autofit.study.trial import Role, Trial
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import Runner

POLL_SECONDS = 0.1
LOOK_SECONDS = 2.0
"""Between looks at who takes part."""
NAMELESS_SECONDS = 30.0
"""A claimed trial of which nobody says that it is theirs is given up after so long."""
SAY_SECONDS = 60.0


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a configuration: how it is measured, and what its row in the study says beside the outcome.

    ``beside`` counts the trials that run meanwhile, on other devices. ``seconds_left`` of the budget end it; None where
    there is none.
    """

    plan: MeasuringPlan
    prediction: Prediction | None = None
    role: Role = Role.CANDIDATE
    round: int | None = None
    beside: int = 0
    seconds_left: float | None = None

    def as_document(self) -> dict[str, Any]:
        """As it stands in the queue."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Assignment:
        """From the queue."""
        return msgspec.convert({key: value for key, value in document.items() if key != "for"}, cls)

    def run(self, runner: Runner, situation: Situation, number: int, config: TrainConfig) -> Trial:
        """Run it; the trial, not stored yet."""
        result = runner.run(recipe_for(config, situation), self.plan, f"trial-{number:04d}")
        return Trial(
            **vars(result),
            number=number,
            values=dict(config),
            whole=self.plan.whole,
            round=self.round,
            prediction=self.prediction,
            role=self.role,
            beside=self.beside,
        )


class Crew(Protocol):
    """Runs the trials of a search."""

    @property
    def is_free(self) -> bool:
        """True if a trial could begin now."""

    def running(self) -> Mapping[int, TrainConfig]:
        """Trials that were begun and have not ended, by number; those that an earlier search left running, too."""

    def begin(self, config: TrainConfig, assignment: Assignment, *, alone: bool) -> int:
        """Begin a trial; its number. With ``alone`` nobody else runs one, and it is the same one each time who does."""

    def next_ended(self) -> Trial | None:
        """Wait for the next trial that ends, and is stored. None where something else happened meanwhile: who ran a
        trial went away, so that it counts as never run, or somebody came, or nothing for seconds."""

    def withdraw(self) -> None:
        """Give up what was begun and nobody has taken up: there is no time left for it."""

    def close(self) -> None:
        """End the search's part; what runs elsewhere and ends later is stored by those who run it."""


class Single:
    """Runs one trial after the other in this process. ``make_runner`` is called when the first has to run."""

    def __init__(self, study: Study, situation: Situation, make_runner: Callable[[], Runner]) -> None:
        self._study = study
        self._situation = situation
        self._make_runner = make_runner
        self._runner: Runner | None = None
        self._begun: tuple[int, TrainConfig, Assignment] | None = None

    @property
    def is_free(self) -> bool:
        return self._begun is None

    def running(self) -> Mapping[int, TrainConfig]:
        return {} if self._begun is None else {self._begun[0]: self._begun[1]}

    def begin(self, config: TrainConfig, assignment: Assignment, *, alone: bool) -> int:
        if self._runner is None:
            self._runner = self._make_runner()
        number = self._study.begin(config)
        self._begun = (number, config, assignment)
        return number

    def next_ended(self) -> Trial:
        assert self._begun is not None and self._runner is not None, "no trial was begun"
        number, config, assignment = self._begun
        self._begun = None
        try:
            trial = assignment.run(self._runner, self._situation, number, config)
        except BaseException:
            self._study.give_up(number)
            raise
        self._study.finish(trial)
        return trial

    def withdraw(self) -> None:
        return None

    def close(self) -> None:
        if self._begun is not None:
            self._study.give_up(self._begun[0])


class Shared:
    """Leads those in a study's roster: puts trials into its queue, and sees what they make of them."""

    def __init__(self, study: Study, say: Callable[[str], None], local: LocalMembers | None = None) -> None:
        """``local`` are those that were started for this search; others may join."""
        self._queue = Queue(study)
        self._roster = Roster(study)
        self._say = say
        self._local = local
        self._outstanding: dict[int, Outstanding] = {}
        self._nameless: dict[int, float] = {}
        self._members: list[Place] = []
        self._said_of_local: list[str] = []
        self._looked = self._said = -SAY_SECONDS
        self._adopt()

    def _adopt(self) -> None:
        """Take over what an earlier search left running."""
        self._queue.withdraw()
        self._outstanding = {each.number: each for each in self._queue.outstanding()}
        self._look(at_once=True)

    @property
    def is_free(self) -> bool:
        return len(self._outstanding) < len(self._members)

    def running(self) -> Mapping[int, TrainConfig]:
        return {number: each.config for number, each in self._outstanding.items()}

    def begin(self, config: TrainConfig, assignment: Assignment, *, alone: bool) -> int:
        if alone:
            self._look(at_once=True)
        member = self._members[0].number if alone and self._members else None
        number = self._queue.put(config, assignment.as_document(), member)
        self._outstanding[number] = Outstanding(number=number, config=config, waits=True, member=member)
        return number

    def next_ended(self) -> Trial | None:
        wait_until = time.monotonic() + LOOK_SECONDS
        while True:
            for ended in self._queue.ended(set(self._outstanding)):
                number = ended if isinstance(ended, int) else ended.number
                del self._outstanding[number]
                return None if isinstance(ended, int) else ended
            if self._look() or time.monotonic() > wait_until:
                return None
            time.sleep(POLL_SECONDS)

    def _look(self, *, at_once: bool = False) -> bool:
        """See who is there, and give up what those were running who are not; True where anything changed."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS and not at_once:
            return False
        self._looked = now
        before = self._members
        self._members = [place for place in self._roster.living() if place.part == RUNNER]
        for place in self._members:
            if place not in before:
                self._say(f"{place.label} takes part; {len(self._members)} of them now.")
        there = {place.number for place in self._members}
        for place in before:
            if place.number not in there:
                self._say(f"{place.label} has gone; what it was running is tried again.")
        lost = self._lost(there, now)
        for number in lost:
            self._queue.bury(number, is_known=self._outstanding[number].member is not None)
        self._look_at_local()
        if not self._members and self._local is None and now - self._said > SAY_SECONDS:
            self._said = now
            self._say("Nobody is there to run trials: start 'autofit worker' with the same --storage and --study.")
        return bool(lost) or self._members != before

    def _look_at_local(self) -> None:
        """Say which of those that were started have ended. Raises AutofitError where nobody is left."""
        if self._local is None:
            return
        for sentence in self._local.news():
            self._said_of_local.append(sentence)
            self._say(sentence)
        if self._local.have_all_ended and not self._members:
            raise AutofitError(f"None of the processes that run trials is left. {' '.join(self._said_of_local)}")

    def _lost(self, there: set[int], now: float) -> list[int]:
        """Trials whose members have gone, or of which nobody has said for long that it is theirs."""
        lost = []
        for each in self._queue.outstanding():
            if each.number not in self._outstanding:
                continue
            self._outstanding[each.number] = each
            is_gone = each.member is not None and each.member not in there
            nameless_since = self._nameless.setdefault(each.number, now) if self._is_nameless(each) else now
            if is_gone or now - nameless_since > NAMELESS_SECONDS:
                lost.append(each.number)
        return lost

    @staticmethod
    def _is_nameless(each: Outstanding) -> bool:
        return each.member is None and not each.waits

    def withdraw(self) -> None:
        self._queue.withdraw()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._queue.withdraw()


def claimed_trial(claimed: Claimed, runner: Runner, situation: Situation) -> Trial:
    """Run what was claimed from the queue; the trial, not stored yet."""
    return Assignment.of(claimed.assignment).run(runner, situation, claimed.number, claimed.config)
