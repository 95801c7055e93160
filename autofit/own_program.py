"""``autofit run -- COMMAND``: the search over a training program of the user's own, which stays as it is."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from autofit.api import SearchResult, result_of
from autofit.device.device import Device
from autofit.device.kinds import find_device
from autofit.device.versions import installed_versions, set_variables
from autofit.driver.observer import Observer
from autofit.driver.opening import deadline_of, search_of
from autofit.driver.request import SearchRequest
from autofit.driver.session import SearchPlan, run_search
from autofit.driver.workers import ProgramWorkers
from autofit.errors import UserError
from autofit.job.models import ModelSource
from autofit.job.program import Program
from autofit.job.record import StudyRecord, home
from autofit.job.situation import Limits, Situation
from autofit.job.workload import Workload
from autofit.knobs.knob import PROGRAMS_OWN
from autofit.knobs.own_program import own_config, with_values
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.study.store import Study
from autofit.trial.program import ATTACH, run_program
from autofit.trial.protocol import ProgramFacts, ProgramRunJob
from autofit.units import format_count, seconds_of


@dataclass(frozen=True, kw_only=True)
class ProgramRequest(SearchRequest):
    """Request to search a program: what describes the job is left out, as the program says it.

    ``keep`` names knobs that stay as the program has them. ``train_call`` numbers the call of ``Trainer.train()`` that
    is meant; with ``attach_call`` it is that of the Trainer which the program's N-th ``autofit.attach`` was given.
    ``start_timeout`` is for reaching it.
    """

    command: tuple[str, ...]
    device: str = "auto"
    memory_limit: str | int | None = None
    headroom: str | float = 0.05
    seed: int = 0
    keep: tuple[str, ...] = ()
    start_timeout: str | float = 600.0
    train_call: int = 1
    attach_call: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.command:
            raise UserError("autofit run takes your own command: autofit run -- python train.py ...")
        if self.train_call < 1:
            raise UserError(f"--trainer counts calls of train() from 1; not {self.train_call}.")

    @property
    def call(self) -> str:
        """The call of ``train()`` that is meant, as the hook is told."""
        return f"{ATTACH}{self.attach_call}" if self.attach_call else str(self.train_call)


def search_program(asked: ProgramRequest, observer: Observer | None = None) -> SearchResult:
    """Find the fastest configuration of a program that fits, at the effective batch of its own arguments.

    Raises what ``autofit.search`` raises; UserError too where the program never comes to ``Trainer.train()``.
    """
    began = time.monotonic()
    watcher = observer or Observer()
    request, budget = asked.space(), asked.limits()
    stopped, interrupted = "it was interrupted", True
    with _started(asked, watcher) as (workers, facts, record):
        situation = record.situation
        assert situation is not None
        watcher.say(f"Found {describe(facts)}.")
        with search_of(record, asked.study, asked.storage, fresh=asked.fresh, watcher=watcher) as opened:
            deadline = deadline_of(opened, budget, began)
            workers.work_on(record, opened.log_folder, home() / "traces", deadline)
            plan = SearchPlan(budget=budget, began=began, deadline=deadline, seed=asked.seed, sampler=asked.sampler)
            try:
                stopped = _search(opened, situation, _keeping(request, asked.keep, situation), workers, plan, watcher)
                interrupted = False
            except KeyboardInterrupt:
                pass
            finally:
                # Before others may search on the same device.
                workers.close()
    return result_of(opened, stopped=stopped, interrupted=interrupted, run=asked.run)


def examine_program(asked: ProgramRequest) -> tuple[ProgramFacts, Situation, str]:
    """Facts of a program, what can be searched in it, and why it cannot be predicted (empty where it can).

    Nothing is trained or stored. Raises as a search does.
    """
    with _started(asked, Observer()) as (workers, facts, record):
        assert record.situation is not None
        return facts, record.situation, workers.why_not_predicted(record.situation)


@contextlib.contextmanager
def _started(asked: ProgramRequest, watcher: Observer) -> Iterator[tuple[ProgramWorkers, ProgramFacts, StudyRecord]]:
    """The program, stopped where it trains, until it is left."""
    device = find_device(asked.device)
    watcher.say(f"Starting {_shown(asked.command)}, up to where it trains.")
    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        workers = ProgramWorkers(
            asked.command,
            device,
            Path(scratch),
            watcher.say,
            shows_device=asked.device != "auto",
            train_call=asked.call,
            start_seconds=seconds_of(asked.start_timeout),
            most_seconds=seconds_of(asked.trial_timeout),
        )
        try:
            facts = workers.facts()
            yield workers, facts, record_of(facts, asked, device)
        finally:
            workers.close()


def _search(
    opened: Study,
    situation: Situation,
    request: SpaceRequest,
    workers: ProgramWorkers,
    plan: SearchPlan,
    watcher: Observer,
) -> str:
    """Search around the program's own settings; why it stopped, as a sentence's end."""
    program = situation.program
    assert program is not None
    space = SearchSpace(situation, request)
    opened.keep_situation(situation)
    opened.keep_request(request, own_config(program))
    seconds_left = None if plan.deadline is None else plan.deadline - plan.began
    watcher.opened(opened.name, opened.storage_url, situation, len(space), opened.trials(), seconds_left)
    if program.own:
        reasons = [f"{name} ({reason})" for name, reason in program.own.items()]
        watcher.say(f"Left as the program has it: {'; '.join(reasons)}.")
    why_not = workers.why_not_predicted(situation)
    if why_not:
        watcher.say(f"Nothing is predicted, everything is measured: {why_not}.")
    plan = replace(plan, predict=not why_not)
    return run_search(opened, situation, space, workers, plan, watcher, own_config(program))


def _keeping(request: SpaceRequest, names: Sequence[str], situation: Situation) -> SpaceRequest:
    """The request with some knobs fixed to the program's own values. Raises UserError for a knob that there is not."""
    program = situation.program
    assert program is not None
    own = {name: str(value) for name, value in own_config(program).items()}
    unknown = [name for name in names if name not in own]
    if unknown:
        raise UserError(f"There is no knob '{unknown[0]}'; --keep takes {', '.join(own)}.")
    kept = {name: own[name] for name in names if own[name] != PROGRAMS_OWN}
    return replace(request, fix={**request.fix, **kept})


def train_with(result: SearchResult, asked: ProgramRequest) -> int:
    """Run the program to its end with the recommendation of a search; its exit code. It writes where it always does."""
    return run_program(asked.command, run_of(result), train_call=asked.call, device=_shown_device(asked))


def run_of(result: SearchResult) -> ProgramRunJob:
    """Run to the end with the recommendation of a search, and with what it is to be compared with."""
    best = result.ranking.best
    assert best is not None, "there is something to train with"
    return ProgramRunJob(
        recipe=recipe_for(best.trial.config, result.situation),
        step_seconds=best.measurement.step_seconds,
        memory_bytes=best.measurement.memory.peak_reserved,
    )


def train_guarded(asked: ProgramRequest) -> int:
    """Run the program to its end as it is, surviving out-of-memory; its exit code."""
    return run_program(asked.command, ProgramRunJob(), train_call=asked.call, device=_shown_device(asked))


def _shown_device(asked: ProgramRequest) -> Device | None:
    """The device that was asked for by name, which the program is to see alone."""
    return None if asked.device == "auto" else find_device(asked.device)


def describe(facts: ProgramFacts) -> str:
    """A program in words, as a sentence's end."""
    program, model, lengths = facts.program, facts.model, facts.lengths
    assert program is not None and model is not None and lengths is not None
    parts = [
        program.trainer,
        f"{program.model} of {format_count(model.num_parameters)} parameters in {' and '.join(program.weight_dtypes)}",
        *program.details,
    ]
    batch = f"your {program.own_split}"
    if facts.processes > 1:
        batch += f" x {facts.processes} processes"
    parts.append(f"{batch} = {facts.effective_batch} samples a step")
    samples = "a stream" if facts.num_samples is None else f"{facts.num_samples:,} samples"
    if not lengths.all_equal:
        samples += f" of {lengths.quantile(0.5)} tokens in the median, {lengths.longest} at most"
    elif lengths.longest > 1:
        samples += f" of {lengths.longest} tokens each"
    if facts.num_samples is not None and facts.looked_at < facts.num_samples:
        samples += f" ({facts.looked_at:,} of them looked at)"
    return ", ".join([*parts, samples])


def record_of(facts: ProgramFacts, asked: ProgramRequest, found: Device) -> StudyRecord:
    """Record of a study of a program: its command, code, settings, data and the device it runs on.

    Raises UserError for a limit that the device does not have.
    """
    program = facts.program
    assert program is not None and facts.device is not None and facts.libraries is not None
    assert facts.lengths is not None and facts.model is not None
    device = replace(facts.device, index=found.index)
    limits = Limits.of(device, asked.memory_limit, asked.headroom)
    workload = Workload(
        model=program.name,
        model_digest=_digest(program, facts),
        task=facts.task,
        lengths=facts.lengths,
        effective_batch=facts.effective_batch,
        processes=facts.processes,
    )
    situation = with_values(
        Situation(
            workload=workload,
            device=device,
            libraries=facts.libraries,
            model=facts.model,
            limits=limits,
            program=program,
        )
    )
    return StudyRecord(
        model=ModelSource(name=program.name, origin="program", config={"program": workload.model_digest}),
        workload=workload,
        device=device,
        versions=installed_versions(),
        limits=limits,
        seed=asked.seed,
        environment=set_variables(),
        situation=situation,
    )


def _digest(program: Program, facts: ProgramFacts) -> str:
    """The same for the same program on the same data."""
    # What was timed can come out otherwise the next time.
    program = msgspec.structs.replace(program, loads_quickly=False)
    parts = (program, os.getcwd(), facts.model, facts.num_samples, facts.lengths)  # noqa: PTH109 - a relative path means this folder
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:16]


def _shown(command: Sequence[str], most: int = 80) -> str:
    text = " ".join(command)
    return text if len(text) <= most else f"{text[: most - 3]}..."
