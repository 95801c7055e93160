"""Everything that a job's workers are asked for, put together once: the situation, trials, predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from autofit.device.device import Device
from autofit.device.gpus import published_rates
from autofit.device.kinds import kind_of
from autofit.errors import AutofitError, UserError
from autofit.job.program import ProgramSamples
from autofit.job.record import StudyRecord
from autofit.job.situation import Situation
from autofit.predict.needs import Needs
from autofit.predict.predictor import Predictor
from autofit.trial.measured_rates import measured_rates
from autofit.trial.program import ProgramStarts, last_lines
from autofit.trial.protocol import JobFiles, ProgramFacts, ProgramFactsJob
from autofit.trial.runner import MOST_SECONDS, ProcessRunner
from autofit.trial.traces import TraceKeeper
from autofit.trial.workshop import Announce, Workshop, probe

WORTH_SAYING = 4
"""So many steps take seconds to trace."""


class Workers:
    """Starts the trial server when something has to run, and not before.

    ``folder`` takes jobs and logs, ``kept`` what is of use to other jobs: traces and the device's rates. ``announce``
    is called with a sentence where workers cannot be started as usual. No worker runs beyond ``deadline``
    (``time.monotonic``). To be closed.
    """

    def __init__(
        self,
        record: StudyRecord,
        folder: Path,
        kept: Path,
        announce: Announce,
        *,
        most_seconds: float = MOST_SECONDS,
        deadline: float | None = None,
    ) -> None:
        self._record = record
        self._deadline = deadline
        self._folder = folder
        self._kept = kept
        self._announce = announce
        self._most_seconds = most_seconds
        self._workshop: Workshop | None = None

    def workshop(self) -> Workshop:
        """The workshop that starts the workers."""
        if self._workshop is None:
            device = self._record.device
            self._workshop = Workshop(
                kind_of(device),
                device.index,
                self._folder,
                self._announce,
                deadline=self._deadline,
                processes=self._record.workload.processes,
            )
        return self._workshop

    def probe(self) -> Situation:
        """Situation as a worker finds it: device, libraries and model. Raises UserError and AutofitError."""
        record = self._record
        return probe(
            self.workshop(),
            record.model,
            record.workload,
            record.device,
            record.limits,
            trust_remote_code=record.trust_remote_code,
        )

    def runner(self, situation: Situation) -> ProcessRunner:
        """Runs trials; one that takes more than ``most_seconds`` is ended."""
        return ProcessRunner(
            self.workshop(),
            situation,
            self._record.model,
            most_seconds=self._most_seconds,
            trust_remote_code=self._record.trust_remote_code,
        )

    def predictor(self, situation: Situation) -> Predictor:
        """Predictions for the present device, with its measured rates."""
        record = self._record
        keeper = TraceKeeper(self._kept, record.versions, self.workshop, self._tell_of_tracing)
        return Predictor(
            Needs(situation, record.model, keeper, trust_remote_code=record.trust_remote_code),
            situation,
            rates=measured_rates(self._kept, record, situation.device, self.workshop),
            peaks=published_rates(situation.device),
        )

    def _tell_of_tracing(self, done: int, total: int) -> None:
        if done == 0 and total >= WORTH_SAYING:
            self._announce(f"Tracing {total} training steps without data, to predict memory and time.")

    def close(self) -> None:
        """End the trial server and whatever runs."""
        if self._workshop is not None:
            self._workshop.close()
            self._workshop = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class ProgramWorkers:
    """The same for a user's own program: started once, and every trial forked from it where that can be had.

    ``folder`` takes jobs and logs. With ``shows_device`` the program sees no other device. To be closed.
    """

    def __init__(
        self,
        command: Sequence[str],
        device: Device,
        folder: Path,
        announce: Announce,
        *,
        shows_device: bool = False,
        train_call: str = "1",
        start_seconds: float = MOST_SECONDS,
        most_seconds: float = MOST_SECONDS,
    ) -> None:
        self._command = tuple(command)
        self._most_seconds = most_seconds
        self._start_seconds = start_seconds
        starts = ProgramStarts(
            command, train_call=train_call, start_seconds=start_seconds, device=device if shows_device else None
        )
        self._workshop = Workshop(kind_of(device), device.index, folder, announce, starts=starts)
        self._samples: ProgramSamples | None = None
        self._record: StudyRecord | None = None
        self._kept: Path | None = None

    def facts(self) -> ProgramFacts:
        """Facts of the program. Raises UserError where it cannot be searched, AutofitError where it does not say."""
        job = ProgramFactsJob(command=self._command, device=self._workshop.torch_device)
        answer, how_it_ended = self._workshop.ask(job, "program", self._start_seconds)
        if not isinstance(answer, ProgramFacts):
            raise AutofitError(
                f"The look at the program, where it begins to train, {how_it_ended.partition(';')[0]}."
                f"{last_lines(JobFiles(self._workshop.folder / 'program.json').log)}"
            )
        if answer.refusal is not None:
            raise UserError(answer.refusal)
        self._samples = answer.samples
        return answer

    def work_on(self, record: StudyRecord, folder: Path, kept: Path, deadline: float | None = None) -> None:
        """Set the study of the trials, the folders of their logs and of traces, and the end of the budget."""
        self._record, self._kept = record, kept
        self._workshop.move_to(folder, deadline)

    def runner(self, situation: Situation) -> ProcessRunner:
        """Runs trials of the program; one that takes too long is ended. ``facts`` and ``work_on`` come first."""
        assert self._samples is not None and self._record is not None, "nobody has looked at the program yet"
        return ProcessRunner(
            self._workshop,
            situation,
            self._record.model,
            most_seconds=self._most_seconds,
            samples=self._samples,
        )

    def why_not_predicted(self, situation: Situation) -> str:
        """A sentence's end where the program's steps cannot be predicted; empty where they can."""
        assert situation.program is not None
        return situation.program.untraced or ("" if self._workshop.forks else "its trials are not forked from it")

    def predictor(self, situation: Situation) -> Predictor:
        """Predictions for the program, from traces of its own steps."""
        assert self._record is not None and self._kept is not None, "nobody has looked at the program yet"
        keeper = TraceKeeper(self._kept, self._record.versions, lambda: self._workshop, samples=self._samples)
        return Predictor(
            Needs(situation, self._record.model, keeper),
            situation,
            rates=measured_rates(self._kept, self._record, situation.device, lambda: self._workshop),
            peaks=published_rates(situation.device),
        )

    def close(self) -> None:
        """End the program and whatever runs."""
        self._workshop.close()
