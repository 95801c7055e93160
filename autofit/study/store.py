"""A study: one situation and its trials, kept in an Optuna storage so that nothing measured is lost.

Each trial is an Optuna trial whose ``trial`` attribute holds our own document; it is written before
Optuna is told that the trial ended, so a process killed in between loses at most the telling.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import optuna
import psutil
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial

from autofit.errors import UserError
from autofit.job.record import FORMAT, StudyRecord, home
from autofit.job.situation import Situation
from autofit.job.workload import divisors
from autofit.knobs import BATCH_KNOBS, KNOBS, completed
from autofit.knobs.knob import PROGRAMS_OWN
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.study.outcome import Outcome
from autofit.study.prediction import Expected
from autofit.study.storage import patiently, storage_at, without_password
from autofit.study.trial import Role, Trial

MOST_ORPHANS = 3
MOST_ELSEWHERE = 5
"""Other studies that are looked at before a search begins."""
_STATES = {Outcome.OK: TrialState.COMPLETE, Outcome.SLOWER: TrialState.PRUNED}


class Study:
    """One study in a storage. Open it with ``open_study`` or ``load_study``."""

    def __init__(self, inner: optuna.Study, storage_url: str) -> None:
        self._inner = inner
        self.storage: BaseStorage = inner._storage
        self.storage_url = without_password(storage_url)
        self._asked: dict[str, Any] = {}
        self._of_request: tuple[Any, SearchSpace | None] | None = None

    @property
    def name(self) -> str:
        """The name it is stored under."""
        return self._inner.study_name

    @property
    def record(self) -> StudyRecord:
        """Subject of the study. Raises UserError where another release of autofit wrote it in another form."""
        stored = self._inner.user_attrs["record"]
        if stored.get("format") != FORMAT:
            raise UserError(
                f"Study '{self.name}' was made by another release of autofit; begin it anew with --fresh, "
                "or choose another --study."
            )
        return msgspec.convert(stored, StudyRecord)

    @property
    def situation(self) -> Situation | None:
        """The situation that a worker found, or None where none was asked yet."""
        return self.record.situation

    def keep_situation(self, situation: Situation) -> None:
        """Store what a worker found, so that the same command need not ask again."""
        record = msgspec.structs.replace(self.record, situation=situation)
        patiently(lambda: self._inner.set_user_attr("record", msgspec.to_builtins(record)))

    @property
    def request(self) -> SpaceRequest:
        """The part of the space that the last search was of."""
        return msgspec.convert(self._inner.user_attrs.get("request", {}), SpaceRequest)

    def keep_request(self, request: SpaceRequest, baseline: TrainConfig | None) -> None:
        """Store what a search that begins is of, and what the user trains with now; an earlier one's end is over."""
        values = None if baseline is None else dict(baseline)
        self._asked = {"baseline": values, "request": msgspec.to_builtins(request)}
        for name, value in self._asked.items():
            patiently(functools.partial(self._inner.set_user_attr, name, value))
        self.keep_stopped("")

    @property
    def predicted(self) -> dict[TrainConfig, Expected]:
        """Predictions of the recommendation and its neighbours, made before any trial."""
        stored = self._inner.user_attrs.get("predicted", [])
        return {TrainConfig(completed(values)): Expected(seconds, size) for values, seconds, size in stored}

    def keep_predicted(self, predicted: Mapping[TrainConfig, Expected]) -> None:
        """Store predictions of the recommendation and its neighbours."""
        rows = [[dict(config), each.seconds, each.total_bytes] for config, each in predicted.items()]
        patiently(lambda: self._inner.set_user_attr("predicted", rows))

    @property
    def stopped(self) -> str:
        """Reason that its last search ended, as a sentence's end; empty where none has."""
        return str(patiently(lambda: self._inner.user_attrs).get("stopped", ""))

    def keep_stopped(self, reason: str) -> None:
        """Store why a search ended."""
        patiently(lambda: self._inner.set_user_attr("stopped", reason))

    @property
    def spent_seconds(self) -> float:
        """Wall seconds that searches have spent on this study."""
        return float(patiently(lambda: self._inner.user_attrs).get("spent_seconds", 0.0))

    def spend(self, seconds: float) -> None:
        """Add to ``spent_seconds``."""
        spent = self.spent_seconds + seconds
        patiently(lambda: self._inner.set_user_attr("spent_seconds", spent))

    @property
    def log_folder(self) -> Path:
        """Folder of this study's jobs and logs."""
        return log_folder_of(self.name)

    def trials(self) -> tuple[Trial, ...]:
        """Every trial that ended, in order, each with its role in the last search."""
        found = (trial_of(entry) for entry in self.entries() if "trial" in entry.user_attrs)
        # A search goes by its own request, whatever another host asks of the study meanwhile.
        attributes = self._asked or patiently(lambda: self._inner.user_attrs)
        space = self._space(attributes)
        if space is None or "baseline" not in attributes:
            return tuple(found)
        own = attributes["baseline"]
        baseline = None if own is None else TrainConfig(completed(own))
        return tuple(
            replace(each, role=Role.of(is_baseline=each.config == baseline, is_inside=each.config in space))
            for each in found
        )

    def _space(self, attributes: Mapping[str, Any]) -> SearchSpace | None:
        """The space of the last search; None where nothing says it, or another release's has no such space."""
        asked = attributes.get("request")
        if self._of_request is None or self._of_request[0] != asked:
            situation, space = self.situation, None
            if asked is not None and situation is not None:
                with contextlib.suppress(UserError, msgspec.ValidationError):
                    space = SearchSpace(situation, msgspec.convert(asked, SpaceRequest))
            self._of_request = asked, space
        return self._of_request[1]

    def begin(self, config: TrainConfig, assignment: Mapping[str, Any] | None = None) -> int:
        """Note that a configuration is being tried, and with an ``assignment`` that it waits to be; its number."""
        token = uuid.uuid4().hex
        attributes = {"process": os.getpid(), "host": socket.gethostname(), "token": token}
        if assignment is not None:
            attributes["assignment"] = dict(assignment)
        entry = create_trial(
            state=TrialState.RUNNING if assignment is None else TrialState.WAITING,
            params=dict(config),
            distributions=_distributions(config),
            user_attrs=attributes,
        )

        def add() -> int:
            return self.storage.create_new_trial(self._inner._study_id, entry)

        def look_then_add() -> int:
            known = [each._trial_id for each in self.entries() if each.user_attrs.get("token") == token]
            return known[0] if known else add()

        trial_id = patiently(add, again=look_then_add)
        return patiently(lambda: self.storage.get_trial_number_from_id(trial_id))

    def finish(self, trial: Trial) -> None:
        """Keep a trial: first our document, then Optuna's own state. One that was given up meanwhile stays so."""
        trial_id = self._id(trial.number)
        document = msgspec.to_builtins(trial)
        state = _STATES.get(trial.outcome, TrialState.FAIL)
        values = None if trial.measurement is None else [trial.measurement.step_seconds]
        with contextlib.suppress(UpdateFinishedTrialError):
            patiently(lambda: self.storage.set_trial_user_attr(trial_id, "trial", document))
            patiently(lambda: self.storage.set_trial_state_values(trial_id, state, values))

    def give_up(self, number: int) -> None:
        """End a trial that was begun and not finished, without a document: it counts as never run."""
        with contextlib.suppress(UpdateFinishedTrialError):
            patiently(lambda: self.storage.set_trial_state_values(self._id(number), TrialState.FAIL))

    def reap(self) -> None:
        """Give up trials that a process of this host began and did not live to finish.

        A configuration under which that happened several times is not tried again: it may be what ends the process.
        """
        for entry in self.entries():
            process, host = entry.user_attrs.get("process"), entry.user_attrs.get("host")
            if entry.state.is_finished() or host != socket.gethostname() or process is None:
                continue
            if not psutil.pid_exists(int(process)):
                if "trial" in entry.user_attrs:
                    self.finish(msgspec.convert(entry.user_attrs["trial"], Trial))
                elif entry.state is TrialState.WAITING:
                    self.give_up(entry.number)
                elif "assignment" not in entry.user_attrs:
                    self.bury(entry)

    def bury(self, entry: FrozenTrial, what: str = "the search itself was") -> None:
        """Give up a trial whose process was killed while it ran; the third of one configuration counts as a crash.

        ``what`` begins the sentence that then says so.
        """
        patiently(lambda: self.storage.set_trial_user_attr(entry._trial_id, "orphan", True))
        same = [each for each in self.entries() if each.params == entry.params]
        last_ended = max((each.number for each in same if "trial" in each.user_attrs), default=-1)
        orphans = [each for each in same if "orphan" in each.user_attrs and each.number > last_ended]
        if len(orphans) < MOST_ORPHANS:
            self.give_up(entry.number)
            return
        reason = f"{what} killed {len(orphans)} times while this ran"
        values: dict[str, KnobValue] = dict(entry.params)
        self.finish(Trial(number=entry.number, values=values, outcome=Outcome.CRASHED, reason=reason, whole=True))

    def entries(self) -> list[FrozenTrial]:
        """All trials as Optuna keeps them, in order."""
        return patiently(lambda: self._inner.get_trials(deepcopy=False))

    def numbers(self, *states: TrialState) -> set[int]:
        """Numbers of the trials in these states: one query, where ``entries`` asks for all that trials hold."""
        trials = models.TrialModel
        wanted = sqlalchemy.select(trials.number).where(
            trials.study_id == self._inner._study_id, trials.state.in_(states)
        )

        def ask() -> set[int]:
            with self.storage._backend.engine.connect() as connection:  # type: ignore[attr-defined]
                return set(connection.scalars(wanted))

        return patiently(ask)

    def turn(self, trial_id: int, before: TrialState, after: TrialState) -> bool:
        """Change a trial's state by one statement, so that of several who try one has it; False for the others.

        Optuna's own change reads first and writes then, which SQLite does not hold together.
        """
        trials = models.TrialModel
        change = (
            sqlalchemy.update(trials)
            .where(trials.trial_id == trial_id, trials.state == before)
            .values(state=after, datetime_start=datetime.datetime.now())
        )

        def ask() -> bool:
            with self.storage._backend.engine.begin() as connection:  # type: ignore[attr-defined]
                return bool(connection.execute(change).rowcount == 1)

        return patiently(ask)

    def _id(self, number: int) -> int:
        return patiently(lambda: self.storage.get_trial_id_from_study_id_trial_number(self._inner._study_id, number))


def trial_of(entry: FrozenTrial) -> Trial:
    """The trial whose document an entry holds."""
    trial = msgspec.convert(entry.user_attrs["trial"], Trial)
    return replace(trial, values=completed(trial.values))


def open_study(storage_url: str, record: StudyRecord, name: str | None, *, fresh: bool) -> Study:
    """The study of ``record``, made where it is not there; begun anew with ``fresh``.

    Raises UserError where the name belongs to a study of something else, or the storage is not one.
    """
    storage = storage_at(storage_url)
    assert storage is not None
    name = name or record.default_name
    existing = name in optuna.study.get_all_study_names(storage)
    if existing and fresh and _is_ours(storage, name):
        optuna.delete_study(study_name=name, storage=storage)
        existing = False
    inner = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, direction="minimize")
    if "record" not in inner.user_attrs:
        if existing:
            shown = without_password(storage_url)
            raise UserError(f"'{name}' in {shown} was not made by autofit; choose another --study.")
        inner.set_user_attr("record", msgspec.to_builtins(record))
    study = Study(inner, storage_url)
    if study.record.identity != record.identity:
        raise UserError(
            f"Study '{name}' is of {_describe(study.record)}, not of {_describe(record)}; "
            "choose another --study, or begin it anew with --fresh."
        )
    study.reap()
    return study


def _is_ours(storage: BaseStorage, name: str) -> bool:
    return "record" in optuna.load_study(study_name=name, storage=storage).user_attrs


def log_folder_of(name: str) -> Path:
    """Folder of a study's jobs and logs."""
    return home() / "logs" / "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def load_study(storage_url: str, name: str | None) -> Study:
    """A stored study by name; the newest one where no name is given. Raises UserError where there is none."""
    storage, storage_url = storage_at(storage_url, must_exist=True), without_password(storage_url)
    if storage is None:
        raise UserError(f"There is no study in {storage_url} yet; run 'autofit MODEL --effective-batch N' first.")
    every = [each for each in optuna.get_all_study_summaries(storage) if "record" in each.user_attrs]
    current = [each for each in every if each.user_attrs["record"].get("format") == FORMAT]
    summaries = every if name is not None else current
    if not summaries:
        raise UserError(f"There is no study in {storage_url} yet; run 'autofit MODEL --effective-batch N' first.")
    names = [summary.study_name for summary in summaries]
    if name is None:
        newest = max(summaries, key=lambda each: (each.datetime_start is not None, each.datetime_start, each._study_id))
        name = newest.study_name
    if name not in names:
        raise UserError(f"There is no study '{name}' in {storage_url}; there are: {', '.join(names)}.")
    return Study(optuna.load_study(study_name=name, storage=storage), storage_url)


def all_studies(storage_url: str) -> list[tuple[Study, datetime.datetime | None]]:
    """The studies of a storage that this release can read, newest first, each with the moment of its first trial.

    Raises UserError where the storage cannot be used.
    """
    storage = storage_at(storage_url, must_exist=True)
    if storage is None:
        return []
    summaries = [
        each
        for each in optuna.get_all_study_summaries(storage)
        if each.user_attrs.get("record", {}).get("format") == FORMAT
    ]
    summaries.sort(key=lambda each: each._study_id, reverse=True)
    return [
        (Study(optuna.load_study(study_name=each.study_name, storage=storage), storage_url), each.datetime_start)
        for each in summaries
    ]


def measured_elsewhere(study: Study) -> list[tuple[TrainConfig, float, str]]:
    """Measurements of other studies of the same storage: of the same model, or on the same device with the same method:
    configuration, seconds of an optimizer step, and the study's name; of the newest few."""
    storage = study._inner._storage
    own = study.record
    found: list[tuple[TrainConfig, float, str]] = []
    used = 0
    for summary in reversed(optuna.get_all_study_summaries(storage)):
        stored = summary.user_attrs.get("record", {})
        if summary.study_name == study.name or stored.get("format") != FORMAT or used == MOST_ELSEWHERE:
            continue
        other = msgspec.convert(stored, StudyRecord)
        same_model = other.model.digest == own.model.digest and other.device.kind == own.device.kind
        same_device = other.device.name == own.device.name and other.workload.method == own.workload.method
        if not (same_model or same_device):
            continue
        used += 1
        trials = Study(optuna.load_study(study_name=summary.study_name, storage=storage), study.storage_url).trials()
        found += [
            (trial.config, trial.measurement.step_seconds, summary.study_name)
            for trial in trials
            if trial.measurement is not None
        ]
    return found


def _distributions(config: TrainConfig) -> dict[str, BaseDistribution]:
    """One distribution per knob, the same for every trial of a study, as Optuna asks for."""
    micro_batch_size, accumulation_steps = config.micro_batch_size, config.accumulation_steps
    total = micro_batch_size * accumulation_steps
    sizes = divisors(total)
    distributions: dict[str, BaseDistribution] = {name: CategoricalDistribution(sizes) for name in BATCH_KNOBS}
    for row in KNOBS:
        values = [choice.value for choice in row.choices]
        own = config[row.name] == PROGRAMS_OWN
        distributions[row.name] = CategoricalDistribution([PROGRAMS_OWN] if own else values)
    return distributions


def _describe(record: StudyRecord) -> str:
    workload = record.workload
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items() if name == "torch")
    return (
        f"{workload.model} at effective batch {workload.effective_batch}, {workload.lengths.describe()}, "
        f"{record.limits.memory_bytes} bytes on {record.device.name} ({versions})"
    )
