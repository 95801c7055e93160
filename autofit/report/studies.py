"""The studies of a storage as a table, and as plain values for ``--json``."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from autofit.job.record import StudyRecord
from autofit.study.ranking import Ranked, rank
from autofit.study.store import Study
from autofit.study.trial import Trial
from autofit.units import format_seconds


@dataclass(frozen=True, kw_only=True)
class StudyLine:
    """One study: its subject, when it began, its trials and the best of them (None where nothing was measured)."""

    name: str
    began: datetime.datetime | None
    record: StudyRecord
    trials: tuple[Trial, ...]
    best: Ranked | None

    @property
    def num_run(self) -> int:
        """Number of trials that were run, and not skipped by prediction alone."""
        return sum(trial.was_run for trial in self.trials)

    def document(self) -> dict[str, Any]:
        """Plain values; seconds of an optimizer step, and the moment in ISO 8601."""
        workload = self.record.workload
        return {
            "study": self.name,
            "began": None if self.began is None else self.began.isoformat(timespec="seconds"),
            "model": workload.model,
            "effective_batch": workload.effective_batch,
            "processes": workload.processes,
            "device": self.record.device.name,
            "trials": self.num_run,
            "best": None
            if self.best is None
            else {
                "trial": self.best.trial.number,
                "config": dict(self.best.trial.values),
                "step_seconds": self.best.measurement.step_seconds,
                "confirmed": self.best.is_confirmed,
            },
        }


def study_line(study: Study, began: datetime.datetime | None) -> StudyLine:
    """Line of a study in the list."""
    trials = study.trials()
    return StudyLine(name=study.name, began=began, record=study.record, trials=trials, best=rank(trials).best)


def studies_report(lines: Sequence[StudyLine]) -> RenderableType:
    """A row for each study, in the order given."""
    if not lines:
        return Text("No studies that this release can read: begin with autofit run -- python train.py.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title in ("study", "began", "device"):
        table.add_column(title, overflow="fold")
    table.add_column("trials", justify="right")
    table.add_column("best", overflow="fold")
    for line in lines:
        began = "-" if line.began is None else line.began.strftime("%Y-%m-%d %H:%M")
        table.add_row(line.name, began, line.record.device.name, str(line.num_run), _best(line.best))
    return table


def _best(best: Ranked | None) -> str:
    if best is None:
        return "nothing measured"
    speedup = "" if best.speedup is None or best.is_reference else f", {best.speedup:.2f}x"
    confirmed = "" if best.is_confirmed else " (not confirmed)"
    return f"{best.trial.config.split}: {format_seconds(best.measurement.step_seconds)} a step{speedup}{confirmed}"
