"""Everything that a job's workers are asked for, put together once: the situation, trials, predictions."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from autofit.predict.needs import Needs
from autofit.predict.predictor import Predictor
from autofit.predict.step_time import OF_MEASURED_RATES
from autofit.record import StudyRecord
from autofit.situation import Situation
from autofit.trial.rates import measured_rates
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
        """Where the workers are started."""
        if self._workshop is None:
            device = self._record.device
            self._workshop = Workshop(device.kind, device.index, self._folder, self._announce, deadline=self._deadline)
        return self._workshop

    def probe(self) -> Situation:
        """What a worker says of the device, the libraries and the model. Raises UserError and AutofitError."""
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
            efficiencies=OF_MEASURED_RATES,
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
