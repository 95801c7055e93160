"""The trials of a study that wait for whoever takes part in the search: put there by one, claimed by many.

Optuna's own states carry it: an assignment is a waiting trial, and whoever turns it into a running one has it; the
database lets one of them. What is to be done stands in the trial's attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from autofit.knobs import completed
from autofit.knobs.train_config import TrainConfig
from autofit.study.storage import patiently
from autofit.study.store import Study, trial_of
from autofit.study.trial import Trial

MEMBER = "member"
ASSIGNMENT = "assignment"


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A trial that was claimed: its number, its configuration, and what its assignment says."""

    number: int
    config: TrainConfig
    assignment: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outstanding:
    """A trial that waits or runs; ``member`` is who runs it or has to, None where nobody has said so."""

    number: int
    config: TrainConfig
    waits: bool
    member: int | None


class Queue:
    """The assignments of a study. ``member`` is the number that the roster gave to who takes part."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def put(self, config: TrainConfig, assignment: Mapping[str, Any], member: int | None = None) -> int:
        """Add an assignment, for one member alone or for whoever comes first; the trial's number."""
        return self._study.begin(config, {**assignment, "for": member})

    def claim(self, member: int) -> Claimed | None:
        """Take the first assignment that this member may have; None where there is none."""
        waiting = self._study.numbers(TrialState.WAITING)
        for entry in self._study.entries() if waiting else ():
            if entry.state is TrialState.WAITING and entry.user_attrs.get(ASSIGNMENT, {}).get("for", -1) in (
                None,
                member,
            ):
                claimed = self._claim(entry, member)
                if claimed is not None:
                    return claimed
        return None

    def _claim(self, entry: FrozenTrial, member: int) -> Claimed | None:
        storage, trial_id = self._study.storage, entry._trial_id
        try:
            # Where the answer is lost on its way, nobody has it: it is nameless, and given up later.
            if not self._study.turn(trial_id, TrialState.WAITING, TrialState.RUNNING):
                return None
            patiently(lambda: storage.set_trial_user_attr(trial_id, MEMBER, member))
        except UpdateFinishedTrialError:
            return None
        return Claimed(number=entry.number, config=_config(entry), assignment=entry.user_attrs[ASSIGNMENT])

    def outstanding(self) -> list[Outstanding]:
        """Assignments that wait or run."""
        return [
            Outstanding(
                number=entry.number,
                config=_config(entry),
                waits=entry.state is TrialState.WAITING,
                member=entry.user_attrs.get(MEMBER, entry.user_attrs[ASSIGNMENT].get("for")),
            )
            for entry in self._study.entries()
            if ASSIGNMENT in entry.user_attrs and not entry.state.is_finished()
        ]

    def ended(self, numbers: set[int]) -> list[Trial | int]:
        """Those of these trials that ended: with what came of them, or their number where they were given up."""
        ended = numbers - self._study.numbers(TrialState.WAITING, TrialState.RUNNING)
        return [
            trial_of(entry) if "trial" in entry.user_attrs else entry.number
            for entry in (self._study.entries() if ended else ())
            if entry.number in ended
        ]

    def bury(self, number: int, *, is_known: bool) -> None:
        """Give up a trial whose member has gone; ``is_known`` where it was seen to run it."""
        for entry in self._study.entries():
            if entry.number == number and entry.state is TrialState.WAITING:
                self._study.give_up(number)
            elif entry.number == number and not entry.state.is_finished():
                self._study.bury(entry, "the worker was") if is_known else self._study.give_up(number)

    def withdraw(self) -> None:
        """Give up what nobody has claimed."""
        for each in self.outstanding():
            if each.waits:
                self._study.give_up(each.number)


def _config(entry: FrozenTrial) -> TrainConfig:
    return TrainConfig(completed(entry.params))
