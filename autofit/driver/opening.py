"""Opening a study for a search: kept from other searches meanwhile, and its budget counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from autofit.device.device import Device
from autofit.device.locks import held
from autofit.driver.budget import Budget
from autofit.driver.leading import refuse_second_leader
from autofit.driver.observer import Observer
from autofit.errors import UserError
from autofit.job.record import StudyRecord, home
from autofit.study.storage import default_storage, is_file
from autofit.study.store import Study, load_study, log_folder_of, open_study
from autofit.trial.workshop import remove_scratch


@contextlib.contextmanager
def search_of(
    record: StudyRecord,
    study: str | None,
    storage: str | None,
    *,
    fresh: bool,
    watcher: Observer,
    measures_here: bool = True,
) -> Iterator[Study]:
    """The study of a record, kept from other searches meanwhile. Raises UserError where one is at work on it.

    ``measures_here`` where this process runs trials on the device.
    """
    url = storage or default_storage()
    if fresh and not is_file(url):
        _refuse_to_forget(url, study or record.default_name, watcher)
    with contextlib.ExitStack() as locks:
        _lock_study(locks, study or record.default_name)
        if measures_here:
            _lock_device(locks, record.device, watcher)
        opened = open_study(url, record, study, fresh=fresh)
        remove_scratch(opened.log_folder)
        yield opened


def _refuse_to_forget(url: str, study: str, watcher: Observer) -> None:
    """Raises UserError where ``--fresh`` would delete a study that is being searched from another host."""
    try:
        existing = load_study(url, study)
    except UserError:
        return
    refuse_second_leader(existing, watcher.say)


def deadline_of(study: Study, budget: Budget, began: float) -> float | None:
    """The moment (``time.monotonic``) at which a study's budget is spent; None without a budget of time."""
    return None if budget.seconds is None else began + max(0.0, budget.seconds - study.spent_seconds)


def _lock_study(locks: contextlib.ExitStack, study: str) -> None:
    """Keep other searches off the study. Raises UserError where it is being searched already."""
    other = locks.enter_context(held(log_folder_of(study) / "search.lock"))
    if other is not None:
        raise UserError(
            f"Study '{study}' is being searched by process {other}: wait until it ends, or give this search a "
            "--study of its own."
        )


def _lock_device(locks: contextlib.ExitStack, device: Device, watcher: Observer) -> None:
    """Say so where another search measures on the same device."""
    other = locks.enter_context(held(home() / "locks" / f"{device.kind}-{device.index}.lock"))
    if other is not None:
        watcher.say(
            f"Process {other} is searching on the same device: each disturbs what the other measures. For figures to "
            "rely on, run one after the other."
        )
