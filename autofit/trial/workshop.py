"""Workshop: starts the workers of one device, and asks them what is needed outside a search."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from autofit.device.device import Device
from autofit.device.kind import DeviceKind
from autofit.device.kinds import kind_of
from autofit.errors import AutofitError, UserError
from autofit.job.models import ModelSource
from autofit.job.situation import Limits, Situation
from autofit.job.workload import Workload
from autofit.knobs.parallelism import OFFLOADING
from autofit.trial.launcher import (
    ForkServer,
    Launcher,
    LaunchError,
    OwnWorkers,
    Starts,
    worker_environment,
)
from autofit.trial.protocol import Job, JobFiles, JobResult, ProbeJob, ProbeResult, read_result, write_document

PROBE_SECONDS = 180.0
MOST_RESTARTS = 3


class Workshop:
    """Workshop of one device's workers: forked by a server, or afresh as the announced fallback.

    ``starts`` says how either comes to be; workers of ours where it is not given. ``announce`` is called with a
    sentence when the fallback is taken. ``launcher`` replaces both: the seam where tests put workers of their own. No
    worker is waited for beyond ``deadline`` (``time.monotonic``). Workers see as many devices as
    there are ``processes`` in a trial.
    """

    def __init__(
        self,
        kind: DeviceKind,
        device_index: int,
        folder: Path,
        announce: Announce,
        launcher: Launcher | None = None,
        deadline: float | None = None,
        starts: Starts | None = None,
        processes: int = 1,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._deadline = deadline
        self._restarts = 0
        self.torch_device = kind.torch_device
        self._starts = starts or _own_workers(kind, device_index, processes)
        self._announce = announce
        self._server: ForkServer | None = None
        self._launcher: Launcher | None = launcher
        if launcher is not None:
            return
        self._start_server()

    def _start_server(self) -> None:
        try:
            self._server = self._starts.server(self.folder / "server.log")
        except LaunchError as error:
            self._fall_back(str(error))

    @property
    def forks(self) -> bool:
        """True where workers are forked, and do not start anew."""
        return self._server is not None and self._launcher is self._server

    def move_to(self, folder: Path, deadline: float | None) -> None:
        """From now on write jobs and logs into another folder, and wait for no worker beyond ``deadline``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._deadline = folder, deadline

    def seconds_left(self, most: float) -> float:
        """``most``, or the time to the deadline where that is sooner."""
        return most if self._deadline is None else min(most, max(0.0, self._deadline - time.monotonic()))

    def launcher(self, environment: dict[str, str]) -> Launcher:
        """Launcher of the next worker. Variables that torch reads when it is imported need a fresh one."""
        at_import = {name: value for name, value in environment.items() if name not in OFFLOADING}
        if not self._starts.has(at_import):
            return self._starts.fresh(environment)
        if self._launcher is None:
            assert self._server is not None
            try:
                self._server.await_ready(self.seconds_left(self._starts.start_seconds))
                self._launcher = self._server
            except LaunchError as error:
                self._fall_back(str(error))
        assert self._launcher is not None
        return self._launcher

    def ask(self, job: Job, name: str, seconds: float) -> tuple[JobResult | None, str]:
        """Run a job that is no timed trial; its result or None, and a sentence's end on how the worker ended."""
        files = JobFiles(self.folder / f"{name}.json")
        files.result.unlink(missing_ok=True)
        write_document(files.job, job)
        environment = job.environment
        launcher = self.launcher(environment)
        while True:
            try:
                launcher.start(files.job)
                code = launcher.wait(self.seconds_left(seconds))
                if code is None:
                    launcher.kill()
                    launcher.wait(5)
                break
            except LaunchError as error:
                launcher = self.replacement(str(error))
        how = "did not answer in time" if code is None else f"ended with exit code {code}"
        return read_result(files.result), f"{how}; its log: {files.log}"

    def replacement(self, reason: str) -> Launcher:
        """A launcher in place of one that stopped working: a server that was running is started again, a few times.

        In the end it is one that starts fresh interpreters, which does not raise LaunchError.
        """
        if self._server is None or self._launcher is not self._server or self._restarts == MOST_RESTARTS:
            return self.fall_back(reason)
        self._restarts += 1
        self._announce(f"Starting the trial server again: {reason}.")
        self._server.close()
        self._server = self._launcher = None
        self._start_server()
        return self.launcher({})

    def fall_back(self, reason: str) -> Launcher:
        """Give the server up for good."""
        if self._server is not None:
            self._server.close()
            self._server = None
        return self._fall_back(reason)

    def close(self) -> None:
        """End the server and whatever runs."""
        for launcher in {self._launcher, self._server} - {None}:
            assert launcher is not None
            launcher.close()

    def _fall_back(self, reason: str) -> Launcher:
        self._announce(f"Every trial starts a fresh Python, which costs seconds each: {reason}.")
        self._launcher = self._starts.fresh({})
        return self._launcher


def _own_workers(kind: DeviceKind, device_index: int, processes: int) -> OwnWorkers:
    return OwnWorkers(worker_environment(kind.visible(device_index, processes), kind.environment), kind.torch_device)


def remove_scratch(folder: Path, jobs: str = "*") -> None:
    """Remove what the workers of these jobs have left behind; nobody else may be at work on them in ``folder``."""
    for path in folder.glob(f"{jobs}.json"):
        shutil.rmtree(JobFiles(path).scratch, ignore_errors=True)


class Announce(Protocol):
    """Takes a sentence for the user."""

    def __call__(self, sentence: str, /) -> None: ...


def probe(
    workshop: Workshop,
    model: ModelSource,
    workload: Workload,
    device: Device,
    limits: Limits,
    *,
    trust_remote_code: bool,
) -> Situation:
    """Ask a worker what it can say of the device, the libraries and the model.

    ``device`` is what the parent found without opening it; the worker's facts replace it, but for the
    index. Raises UserError where the model or the device cannot be used, AutofitError where the worker
    does not answer.
    """
    job = ProbeJob(model=model, workload=workload, device=workshop.torch_device, trust_remote_code=trust_remote_code)
    answer, how_it_ended = workshop.ask(job, "probe", PROBE_SECONDS)
    if not isinstance(answer, ProbeResult):
        raise AutofitError(f"The worker that looks at the device and the model {how_it_ended}")
    if answer.refusal is not None:
        raise UserError(answer.refusal)
    assert answer.device is not None and answer.libraries is not None and answer.model is not None
    found = replace(answer.device, index=device.index)
    if not kind_of(device).is_host:
        # The driver counts a little memory that torch cannot have; what torch says is what there is.
        whole_card = limits.memory_bytes >= device.memory_bytes
        limits = replace(limits, memory_bytes=found.memory_bytes) if whole_card else limits
    return Situation(workload=workload, device=found, libraries=answer.libraries, model=answer.model, limits=limits)
