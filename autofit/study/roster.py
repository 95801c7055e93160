"""Who takes part in a search: its leader and the members that run its trials, on this host or on others.

Kept as an Optuna study of its own beside the one it is of. Everybody in it is a running trial, which beats: Optuna's
heartbeats, by the database's own clock, say who has gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, TrialState, create_trial

from autofit.study.storage import GRACE_SECONDS, HEARTBEAT_SECONDS, patiently
from autofit.study.store import Study

LEADER, RUNNER = "leader", "runner"
_PLACE = "place"
_IS_THERE = "beats"
"""Attribute of an entry since its first beat."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Somebody in the roster: a number, the part they take, and where they are (``host``, ``process``, ``device``)."""

    number: int
    part: str
    facts: Mapping[str, str]

    @property
    def is_here(self) -> bool:
        """True for a process of this host."""
        return self.facts["processes"] == _processes_seen()

    @property
    def label(self) -> str:
        """The place, for people: ``node7 cuda:2``."""
        return f"{self.facts['host']} {self.facts.get('device', '')}".rstrip()


class Roster:
    """The roster of a study."""

    def __init__(self, study: Study) -> None:
        self._inner = patiently(
            lambda: optuna.create_study(storage=study.storage, study_name=f"{study.name}/roster", load_if_exists=True)
        )
        self._storage = study.storage
        self._asked = -GRACE_SECONDS * 1.0
        self._deaf_until = 0.0
        self._first_seen: dict[int, float] = {}

    @contextlib.contextmanager
    def joined(self, part: str, device: str = "") -> Iterator[Membership]:
        """Take part while the context lasts, and beat meanwhile."""
        facts = {
            "host": socket.gethostname(),
            "process": str(os.getpid()),
            "processes": _processes_seen(),
            "device": device,
        }
        membership = Membership(self, part, facts)
        try:
            yield membership
        finally:
            membership.leave()

    def living(self) -> list[Place]:
        """Those who take part now, in the order in which they joined. Whoever was silent for long is struck off.

        Nobody is while the database was away and for a while after: then nobody could beat.
        """
        began = time.monotonic()
        if began - self._asked > GRACE_SECONDS / 2:
            self._deaf_until = began + GRACE_SECONDS
        entries = self._entries()
        self._asked = time.monotonic()
        if self._asked - began > HEARTBEAT_SECONDS:
            self._deaf_until = self._asked + GRACE_SECONDS
        if self._asked > self._deaf_until:
            self._strike_off()
            entries = self._entries()
        gone = [entry for entry in entries if _is_dead_here(entry) or self._is_ghost(entry)]
        for entry in gone:
            self.strike(entry.number)
        return [_place(entry) for entry in entries if entry not in gone and _IS_THERE in entry.user_attrs]

    def leader(self) -> Place | None:
        """Who leads the search; None where nobody does."""
        return next((place for place in self.living() if place.part == LEADER), None)

    def _is_ghost(self, entry: FrozenTrial) -> bool:
        """True for an entry whose maker never learned of it: it never beat, and is no longer new."""
        since = self._first_seen.setdefault(entry.number, time.monotonic())
        return _IS_THERE not in entry.user_attrs and time.monotonic() - since > GRACE_SECONDS

    def strike(self, number: int) -> None:
        """Take somebody off."""
        trial_id = patiently(
            lambda: self._storage.get_trial_id_from_study_id_trial_number(self._inner._study_id, number)
        )
        with contextlib.suppress(UpdateFinishedTrialError):
            patiently(lambda: self._storage.set_trial_state_values(trial_id, TrialState.FAIL))

    def _entries(self) -> list[FrozenTrial]:
        return patiently(lambda: self._inner.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _strike_off(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patiently(lambda: fail_stale_trials(self._inner))

    def add(self, part: str, facts: Mapping[str, str]) -> int:
        """A new entry's id in the storage."""
        entry = create_trial(state=TrialState.RUNNING, user_attrs={"part": part, _PLACE: dict(facts)})
        return patiently(lambda: self._storage.create_new_trial(self._inner._study_id, entry))

    def beat(self, trial_id: int) -> None:
        """Say that somebody is there."""
        assert isinstance(self._storage, BaseHeartbeat)
        self._storage.record_heartbeat(trial_id)
        if _IS_THERE not in self.entry(trial_id).user_attrs:
            self._storage.set_trial_user_attr(trial_id, _IS_THERE, True)

    def entry(self, trial_id: int) -> FrozenTrial:
        """An entry as it stands."""
        return self._storage.get_trial(trial_id)

    def end(self, trial_id: int) -> None:
        """Note that somebody left on their own."""
        with contextlib.suppress(UpdateFinishedTrialError):
            patiently(lambda: self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.0]))


class Membership:
    """Somebody's own entry: beats from a thread until ``leave``. Joins anew where it was struck off meanwhile."""

    def __init__(self, roster: Roster, part: str, facts: Mapping[str, str]) -> None:
        self._roster, self._part, self._facts = roster, part, facts
        self._join()
        self._has_left = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _join(self) -> None:
        self._id = self._roster.add(self._part, self._facts)
        patiently(lambda: self._roster.beat(self._id))
        self.number = patiently(lambda: self._roster.entry(self._id)).number

    def _beat(self) -> None:
        while not self._has_left.wait(HEARTBEAT_SECONDS):
            # A database that is away is asked again at the next beat.
            with contextlib.suppress(Exception):
                if self._roster.entry(self._id).state.is_finished():
                    self._join()
                self._roster.beat(self._id)

    def leave(self) -> None:
        """Stop beating, and say so."""
        self._has_left.set()
        self._thread.join(HEARTBEAT_SECONDS)
        with contextlib.suppress(Exception):
            self._roster.end(self._id)


def _place(entry: FrozenTrial) -> Place:
    return Place(number=entry.number, part=entry.user_attrs["part"], facts=entry.user_attrs[_PLACE])


def _is_dead_here(entry: FrozenTrial) -> bool:
    """True for a process of this host that is no more: it need not be waited for."""
    facts = entry.user_attrs[_PLACE]
    return facts["processes"] == _processes_seen() and not psutil.pid_exists(int(facts["process"]))


def _processes_seen() -> str:
    """The host, and the namespace that its process numbers are of: containers count their own."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}"
