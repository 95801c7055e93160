"""Running trials, from the parent's side: jobs out, outcomes back, a watchdog meanwhile.

Covers: out-of-memory, crash, hang, kill, garbage or no result, a helper left behind, device memory that
does not come back. Not covered: a worker in uninterruptible sleep inside a driver, which nothing can kill.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from autofit.device.host import (
    is_near_limit,
    limited_segment_of,
    out_of_memory_kills,
    peak_of_segment,
)
from autofit.device.kinds import kind_of
from autofit.job.models import ModelSource
from autofit.job.program import ProgramSamples
from autofit.job.situation import Situation
from autofit.knobs.parallelism import zero_stage
from autofit.knobs.recipe import Recipe
from autofit.study.measurement import Measurement
from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial.failures import classify_exit
from autofit.trial.launcher import Launcher, LaunchError
from autofit.trial.protocol import (
    SLOWER_FACTOR,
    JobFiles,
    MeasuringPlan,
    MemoryPlan,
    ProgramTrialJob,
    TrialJob,
    TrialResult,
    read_phases,
    read_result,
    write_document,
)
from autofit.trial.workshop import Workshop, remove_scratch
from autofit.units import format_bytes, format_seconds

POLL_SECONDS, FIRST_POLL_SECONDS = 0.1, 0.01
"""Between looks at a running worker; the second before it trains, so that its memory limit is seen soon."""
COMPILE_GRACE_SECONDS = 300.0
"""What compiling a model may take before its first step; large ones take minutes."""
MOST_UNACCOUNTED = 0.01
RETURN_SECONDS = 10.0
RETURN_SLACK_BYTES = 64 * 1024**2

MOST_LOG_BYTES = 16 * 1024**2
"""Of a worker's output: one that prints without end would fill the disk."""
MOST_SECONDS = 600.0
"""Of a trial, before it is ended."""


AnyTrialJob = TrialJob | ProgramTrialJob


class Runner(Protocol):
    """Whatever can answer for a recipe: real processes, or a recorded sweep."""

    def run(self, recipe: Recipe, plan: MeasuringPlan, name: str) -> RunResult:
        """Run one recipe. ``name`` is used for its files. A failure is a result."""

    def close(self) -> None:
        """Give back what the runner holds."""


class ProcessRunner:
    """Runs each recipe in a worker process of its own.

    ``most_seconds`` ends a trial that hangs. When ``plan.slower_than_seconds`` is set, a worker whose
    first micro-step alone shows that it is surely slower is ended too.
    """

    def __init__(
        self,
        workshop: Workshop,
        situation: Situation,
        model: ModelSource,
        *,
        most_seconds: float = MOST_SECONDS,
        trust_remote_code: bool = False,
        samples: ProgramSamples | None = None,
    ) -> None:
        """``samples`` are those of the user's own program that the situation is of."""
        self._workshop = workshop
        self._situation = situation
        self._kind = kind_of(situation.device)
        self.model = model
        self._most_seconds = most_seconds
        self._trust_remote_code = trust_remote_code
        self.samples = samples

    def close(self) -> None:
        self._workshop.close()

    def job_for(self, recipe: Recipe, plan: MeasuringPlan) -> AnyTrialJob:
        """The job that ``run`` hands to a worker."""
        device, limits = self._situation.device, self._situation.limits
        others = self._kind.bytes_of_others(device)
        own = min(limits.usable_bytes, limits.with_memory(device.memory_bytes).usable_bytes - others)
        paged = 0
        if recipe.paged_state and self._situation.memory_is_emulated:
            paged = expected_state_bytes(self._situation, recipe.state_bytes)
            program = self._situation.program
            has_been = {} if program is None else program.settings
            if zero_stage({**has_been, **recipe.training_arguments}):
                paged //= recipe.processes
        memory = MemoryPlan(own_bytes=int(own * (1 - plan.spare_share)))
        if self.samples is not None:
            return ProgramTrialJob(
                recipe=recipe,
                samples=self.samples,
                device=self._workshop.torch_device,
                memory=memory,
                plan=plan,
                expected_paged_bytes=paged,
                in_use_before=self._kind.used_bytes(device.index),
            )
        return TrialJob(
            model=self.model,
            workload=self._situation.workload,
            recipe=recipe,
            device=self._workshop.torch_device,
            memory=memory,
            plan=plan,
            expected_paged_bytes=paged,
            trust_remote_code=self._trust_remote_code,
        )

    def run(self, recipe: Recipe, plan: MeasuringPlan, name: str) -> RunResult:
        began = time.monotonic()
        ended = self._run_once(recipe, plan, name)
        if ended.was_killed:
            # Somebody else's doing, as far as can be told: the configuration is blamed when it happens again.
            ended = self._run_once(recipe, plan, name)
        return replace(ended, wall_seconds=time.monotonic() - began)

    def _run_once(self, recipe: Recipe, plan: MeasuringPlan, name: str) -> RunResult:
        files = JobFiles(self._workshop.folder / f"{name}.json")
        for leftover in (files.result, files.phases):
            leftover.unlink(missing_ok=True)
        job = self.job_for(recipe, plan)
        in_use_before = self._kind.used_bytes(self._situation.device.index)
        write_document(files.job, job)
        kills_before = out_of_memory_kills()
        launcher = self._workshop.launcher(recipe.environment)
        watch = _Watch()
        while True:
            try:
                ended = self._watch(launcher, launcher.start(files.job), files, job, watch)
                break
            except LaunchError as error:
                launcher = self._workshop.replacement(str(error))
            except BaseException:  # Ctrl-C above all: the trial ends with us
                with contextlib.suppress(LaunchError):
                    launcher.kill()
                    if watch.has_begun:
                        launcher.wait(5)
                raise
        for jobs in (name, f"{name}-rank*"):
            remove_scratch(self._workshop.folder, jobs)
        if isinstance(ended, int):
            is_near_cap = watch.was_near_cap(job.memory.own_bytes, launcher.peak_resident)
            ended = self._conclude(ended, files, kills_before, is_near_cap=is_near_cap)
        ended = self._judge_paging(ended, job)
        notes = self._await_memory(in_use_before)
        return replace(ended, log_path=str(files.log), notes=(*ended.notes, *notes))

    def _watch(
        self, launcher: Launcher, process: int, files: JobFiles, job: AnyTrialJob, watch: _Watch
    ) -> RunResult | int:
        """Wait for the worker's end; end it when it hangs, is surely slower or the search's time is up."""
        watch.has_begun = True
        began = time.monotonic()
        seconds_left = self._workshop.seconds_left(math.inf)
        is_training = False
        while True:
            code = launcher.wait(POLL_SECONDS if is_training else FIRST_POLL_SECONDS)
            if code is not None:
                return code
            watch.look(process)
            is_training = is_training or "train" in read_phases(files.phases)
            now = time.monotonic()
            verdict = self._too_slow(now, files, job)
            if verdict is None and now - began > min(self._most_seconds, seconds_left):
                verdict = self._out_of_time(files, by_budget=seconds_left < self._most_seconds)
            if verdict is None and _is_flooded(files.log):
                verdict = RunResult(
                    outcome=Outcome.ERROR,
                    reason=f"its process printed more than {format_bytes(MOST_LOG_BYTES)} and was ended",
                )
            if verdict is not None:
                launcher.kill()
                if launcher.wait(10) is None:
                    self._workshop.fall_back("a worker could not be killed")
                return verdict

    def _out_of_time(self, files: JobFiles, *, by_budget: bool) -> RunResult:
        doing = max(read_phases(files.phases).items(), key=lambda item: item[1], default=("start", 0.0))[0]
        if by_budget:
            return RunResult(outcome=Outcome.INTERRUPTED, reason=f"the budget ended while it was in phase '{doing}'")
        limit = format_seconds(self._most_seconds)
        return RunResult(outcome=Outcome.TIMEOUT, reason=f"still in phase '{doing}' after the limit of {limit}")

    def _too_slow(self, now: float, files: JobFiles, job: AnyTrialJob) -> RunResult | None:
        """A first step runs at most what the best one does whole, so it may take as long, and its warm-up."""
        best = job.plan.slower_than_seconds
        phases = read_phases(files.phases) if best is not None else {}
        if best is None or "first_micro_step" not in phases or "first_step" in phases:
            return None
        spent = now - phases["first_micro_step"]
        grace = self._kind.warm_up_grace_seconds
        if job.recipe.is_compiled:
            grace += COMPILE_GRACE_SECONDS
        # The first step runs the worst micro-batch, which pads or holds at most this much more than the mean one.
        lengths = self._situation.workload.lengths
        if spent <= grace + SLOWER_FACTOR * best * lengths.longest / lengths.mean:
            return None
        return RunResult(
            outcome=Outcome.SLOWER,
            reason=f"its first step was not done after {format_seconds(spent)}; the best takes {format_seconds(best)}",
        )

    def _conclude(self, code: int, files: JobFiles, kills_before: int | None, *, is_near_cap: bool) -> RunResult:
        result = read_result(files.result)
        if isinstance(result, TrialResult):
            measured = result.run.measurement
            notes = () if measured is None else (*_unaccounted(measured), *_slowed(measured))
            return replace(result.run, notes=notes)
        if files.result.exists():
            return RunResult(outcome=Outcome.CRASHED, reason="its process left a result that cannot be read")
        kills = out_of_memory_kills()
        ran_out = None if kills is None or kills_before is None else kills > kills_before
        outcome, reason = classify_exit(code, _tail(files.log), ran_out, is_near_cap=is_near_cap)
        was_killed = outcome is Outcome.CRASHED and code in (-signal.SIGKILL, -signal.SIGTERM)
        return RunResult(outcome=outcome, reason=reason, was_killed=was_killed)

    def _judge_paging(self, ended: RunResult, job: AnyTrialJob) -> RunResult:
        """Under an emulated limit all paged state was counted as resident; a real small card would page it out."""
        if ended.outcome is not Outcome.OOM or not job.expected_paged_bytes:
            return ended
        size = format_bytes(job.expected_paged_bytes)
        return RunResult(
            outcome=Outcome.UNSUPPORTED,
            reason=f"paging cannot be emulated under --memory-limit: with its {size} of state resident it does not fit",
        )

    def _await_memory(self, in_use_before: int | None) -> tuple[str, ...]:
        """Wait until the device's memory is back; a sentence where it does not come back."""
        if in_use_before is None:
            return ()
        deadline = time.monotonic() + RETURN_SECONDS
        while True:
            in_use = self._kind.used_bytes(self._situation.device.index)
            if in_use is None or in_use <= in_use_before + RETURN_SLACK_BYTES:
                return ()
            if time.monotonic() > deadline:
                missing = format_bytes(in_use - in_use_before)
                return (f"{missing} of device memory did not come back after this trial; something else took it",)
            time.sleep(0.05)


class _Watch:
    """Observations of a running worker: of its memory, a dead process leaves nothing but the resident peak."""

    has_begun = False
    _seen: tuple[dict[str, int], int] | None = None

    def look(self, process: int) -> None:
        self._seen = limited_segment_of(process) or self._seen

    def was_near_cap(self, cap: int, peak_resident: int | None) -> bool:
        """True if the data segment came near its limit: as last seen, with the peak that the dead process left."""
        if self._seen is None:
            return False
        fields, limit = self._seen
        peak = peak_of_segment({**fields, "VmHWM": max(fields["VmHWM"], peak_resident or 0)})
        return is_near_limit(peak, limit, cap)


def expected_state_bytes(situation: Situation, per_parameter: float) -> int:
    """Bytes of a paged AdamW's state; the Trainer keeps embeddings' moments in 32 bits."""
    embeddings = situation.model.embedding_parameters
    if situation.workload.adapter is not None:
        return round(situation.model.trainable_parameters * per_parameter)
    return round((situation.model.num_parameters - embeddings) * per_parameter + embeddings * 8)


def _unaccounted(measurement: Measurement) -> tuple[str, ...]:
    """A sentence where the parts of a step leave more of the window out than the protocol allows.

    Of several processes each part is the slowest one's, and their sum may be more than the window.
    """
    if measurement.processes > 1:
        return ()
    worst = max(window.unaccounted_share for window in measurement.windows)
    return (f"its parts leave {worst:.1%} of the timed window out",) if worst > MOST_UNACCOUNTED else ()


def _slowed(measurement: Measurement) -> tuple[str, ...]:
    """A sentence where the device could not keep its clock."""
    reasons = " and ".join(measurement.slowed_by)
    return (f"the device ran below its full clock while it was timed, held back by {reasons}",) if reasons else ()


def _is_flooded(log: Path) -> bool:
    try:
        return log.stat().st_size > MOST_LOG_BYTES
    except OSError:
        return False


def _tail(log: Path, size: int = 8192) -> str:
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
