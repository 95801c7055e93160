"""Taking part in a search that was begun elsewhere: ``autofit worker``."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec

from autofit.device.kinds import find_device, kind_of
from autofit.device.locks import held
from autofit.device.versions import installed_versions, set_variables
from autofit.driver.member import check_that_it_is_the_same, take_part
from autofit.driver.workers import Workers
from autofit.errors import UserError
from autofit.job.record import StudyRecord, home
from autofit.study.roster import Roster
from autofit.study.storage import default_storage, is_file
from autofit.study.store import Study, load_study
from autofit.trial.runner import Runner
from autofit.trial.workshop import remove_scratch
from autofit.units import seconds_of

LOOK_SECONDS = 2.0


def join(
    study: str,
    *,
    storage: str | None = None,
    device: str = "auto",
    wait: str | float = "10m",
    trial_timeout: str | float = 600.0,
    say: Callable[[str], None] = lambda sentence: None,
) -> str:
    """Run trials of a search on a device of this machine until the search is over; why it left, as a sentence's end.

    Waits for the study, and without anybody who leads the search, for ``wait`` (seconds, or text such as ``"10m"``).
    Raises UserError where what is measured here would not be comparable: another card, other versions of the libraries.
    """
    url, patience, trial_seconds = storage or default_storage(), seconds_of(wait), seconds_of(trial_timeout)
    opened = _awaited(url, study, time.monotonic() + patience)
    record = opened.record
    situation = opened.situation
    assert situation is not None, "a study that is awaited has been looked at"
    if record.workload.processes > 1:
        raise UserError(
            f"Study '{study}' is of a training in {record.workload.processes} processes, each on a GPU of its own; a "
            "worker adds one GPU, for searches of trainings on one."
        )
    if situation.program is not None:
        raise UserError(
            f"Study '{study}' is of a program of somebody's own, which runs where its search was begun; a worker takes "
            "part in searches by a model's name."
        )
    here = msgspec.structs.replace(
        record, device=find_device(device), versions=installed_versions(), environment=set_variables()
    )
    check_that_it_is_the_same(record, here)
    _check_that_locks_hold(opened, url)
    label = kind_of(here.device).label(here.device.index)
    with held(home() / "locks" / f"{here.device.kind}-{here.device.index}.lock") as other:
        if other is not None and not kind_of(here.device).is_host:
            raise UserError(
                f"Process {other} is measuring on {label} already: two on one card disturb each other. Choose another "
                "with --device, or wait until it ends."
            )
        folder = f"{socket.gethostname()}-{label.replace(':', '-')}-{os.getpid()}"
        works = _Works(here, opened, folder, trial_seconds, say)
        try:
            there = replace(situation, device=replace(situation.device, index=here.device.index))
            return take_part(opened, there, works, label, patience_seconds=patience, say=say)
        finally:
            works.close()


def _awaited(url: str, study: str, deadline: float) -> Study:
    """The study, as soon as somebody has begun it and looked at its device and model."""
    while True:
        problem = f"Study '{study}' was begun, but its search has not looked at the device yet."
        try:
            opened = load_study(url, study)
            if opened.situation is not None:
                return opened
        except UserError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise UserError(problem)
        time.sleep(LOOK_SECONDS)


def _check_that_locks_hold(study: Study, url: str) -> None:
    """Raises UserError where several hosts would write one SQLite file."""
    leader = Roster(study).leader()
    if is_file(url) and leader is not None and leader.facts["host"] != socket.gethostname():
        raise UserError(
            f"The search runs on {leader.facts['host']}, and its study is a SQLite file, whose locks do not hold "
            "between hosts: two could run the same trial, or spoil the file. Keep the study in PostgreSQL or MySQL: "
            "--storage postgresql+psycopg://USER@HOST/DATABASE."
        )


class _Works:
    """Workers of one device; each trial has a deadline of its own."""

    def __init__(
        self, record: StudyRecord, study: Study, folder: str, trial_seconds: float, say: Callable[[str], None]
    ) -> None:
        self._folder = study.log_folder / folder
        self._workers = Workers(record, self._folder, home() / "traces", say, most_seconds=trial_seconds)
        remove_scratch(self._folder)
        self._study = study
        self._runner: Runner | None = None

    def runner(self, deadline: float | None) -> Runner:
        """The runner of the next trial."""
        self._workers.workshop().move_to(self._folder, deadline)
        if self._runner is None:
            situation = self._study.situation
            assert situation is not None
            self._runner = self._workers.runner(situation)
        return self._runner

    def close(self) -> None:
        """End whatever runs."""
        self._workers.close()
