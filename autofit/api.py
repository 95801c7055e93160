"""The library's front door: ``autofit.search(...)`` does what the command does, and returns what it prints."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit.device.kinds import find_gpus
from autofit.driver.explanation import Explanation
from autofit.driver.explanation import explain as explain_trials
from autofit.driver.leading import led
from autofit.driver.observer import Observer
from autofit.driver.opening import deadline_of, search_of
from autofit.driver.request import SearchRequest, filled
from autofit.driver.session import SearchPlan, run_search
from autofit.driver.workers import Workers
from autofit.errors import AutofitError, UserError
from autofit.job.method import Adapter
from autofit.job.models import resolve_model
from autofit.job.record import home
from autofit.job.request import JobRequest
from autofit.job.situation import Situation
from autofit.job.tasks import task_named, task_of
from autofit.knobs.baseline import read_baseline
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import Because, SearchSpace
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.report.document import document
from autofit.report.notebook import default_observer, result_html
from autofit.report.rows import rows_of
from autofit.report.text import as_text, describe
from autofit.study.outcome import Outcome
from autofit.study.result import Result, Run
from autofit.study.storage import default_storage
from autofit.study.store import Study, load_study
from autofit.study.trial import RunResult, Trial
from autofit.trial.equivalence import Comparison, check_equivalence
from autofit.trial.protocol import MeasuringPlan, StepJob, StepResult
from autofit.trial.runner import MOST_SECONDS
from autofit.trial.workshop import Announce
from autofit.units import seconds_of


@dataclass(frozen=True)
class SearchResult(Result):
    """A Result that prints itself, in a notebook too, and becomes plain values: ``document()``, ``to_pandas()``."""

    def document(self) -> dict[str, Any]:
        """The JSON document of ``--json``, as plain dicts and lists."""
        return document(self)

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row for every trial: its knobs, figures (seconds, bytes, shares) and outcome.

        Raises UserError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas.") from None
        return pandas.DataFrame(rows_of(self))

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return result_html(self)

    def plot(self, chart: str = "trade-off") -> Any:
        """An Altair chart of the study: ``trade-off``, ``knobs``, ``memory``, ``step``, ``micro-batch`` or ``course``.

        Raises UserError where the study has no data for it, or the packages of the extra ``report`` are missing.
        """
        from autofit.report.html.picture import chart_of

        explanation = load_explained(self.study, storage=self.storage)[1] if chart == "knobs" else None
        return chart_of(self, explanation, chart)


def search(
    model: str,
    *,
    effective_batch: int,
    seq_len: int | None = None,
    data: str | Path | None = None,
    text_field: str | None = None,
    lengths: str | Path | Sequence[int] | None = None,
    max_length: int | None = None,
    tokens_per_word: float | None = None,
    task: str | None = None,
    method: str = "full",
    lora_rank: int = Adapter.rank,
    lora_alpha: int | None = None,
    lora_targets: str = Adapter.targets,
    lora_dropout: float = Adapter.dropout,
    frozen_dtype: str = Adapter.frozen_dtype,
    processes: int = 1,
    device: str = "auto",
    memory_limit: str | int | None = None,
    headroom: str | float = 0.05,
    budget: str | float | None = 600.0,
    max_trials: int | None = None,
    numerics: str = "standard",
    fix: Mapping[str, KnobValue] | None = None,
    allow: Mapping[str, Sequence[KnobValue]] | None = None,
    forbid: Mapping[str, Sequence[KnobValue]] | None = None,
    study: str | None = None,
    storage: str | None = None,
    fresh: bool = False,
    run: Run | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    trial_timeout: str | float = 600.0,
    predict: bool = True,
    sampler: str = "autofit",
    baseline: str | Path | None = None,
    gpus: str | None = None,
    observer: Observer | None = None,
) -> SearchResult:
    """Find the fastest configuration that trains ``model`` at exactly ``effective_batch`` and fits.

    Sizes and durations are bytes and seconds, or text such as ``"24GiB"`` and ``"10m"``. Samples have
    ``seq_len`` tokens each, or the lengths of those in the file ``data`` (``text_field`` may name several
    fields, by commas), or the ``lengths`` given; ``max_length`` cuts them. What was
    measured before under the same workload, device, versions and limits is used, not repeated. With ``predict``,
    steps are traced without data first: what cannot fit is not run, and what is likely faster is run earlier.
    ``sampler`` says who proposes what to try: ``autofit``, or Optuna's ``tpe``, ``gp``, ``random`` or ``grid``.
    ``baseline`` is a file of the TrainingArguments that are used now (``baseline.py``): what is compared with.
    ``gpus`` runs one trial on each of several GPUs, side by side: ``all``, or such as ``"0,1"``; or ``none``, so that
    only workers that join run any (``autofit worker``). ``processes`` train together, each on a GPU of its own: the
    effective batch is that of all of them.

    Returns the result; after Ctrl-C too, with ``interrupted`` set and everything measured in it.
    Raises UserError for a request that cannot be carried out, NothingFitsError where every
    configuration failed, AutofitError where a worker cannot be had.
    """
    given = dict(locals())
    began = time.monotonic()
    watcher = observer or default_observer()
    asked = filled(SearchRequest, given)
    request, limits, timeout = asked.space(), asked.limits(), seconds_of(trial_timeout)
    if gpus is not None and processes > 1:
        raise UserError("--gpus runs one trial on each GPU, and --processes one trial on several: give one of them.")
    members = None if gpus is None else find_gpus(gpus)
    if members and device == "auto":
        given["device"] = members[0]
    record = filled(JobRequest, given).record()
    url = storage or default_storage()
    with search_of(record, study, url, fresh=fresh, watcher=watcher, measures_here=members is None) as opened:
        deadline = deadline_of(opened, limits, began)
        workers = _workers(opened, watcher.say, timeout, deadline)
        stopped, interrupted = "it was interrupted", True
        try:
            situation = opened.situation
            if situation is None:
                watcher.say("Looking at the device and the model (the first start imports torch).")
                situation = _probe(workers, deadline)
                opened.keep_situation(situation)
            space = SearchSpace(situation, request)
            own = None if baseline is None else read_baseline(baseline, situation)
            opened.keep_request(request, own)
            if not record.workload.lengths.all_equal:
                estimate = f", estimated at {tokens_per_word:g} tokens a word" if tokens_per_word else ""
                watcher.say(f"Data: {record.workload.lengths.describe()}{estimate}.")
            seconds_left = None if deadline is None else deadline - began
            watcher.opened(opened.name, opened.storage_url, situation, len(space), opened.trials(), seconds_left)
            if space.refusals:
                watcher.say(_what_is_left_out(space, model))
            plan = SearchPlan(
                budget=limits,
                began=began,
                deadline=deadline,
                seed=seed,
                predict=predict,
                sampler=sampler,
            )
            with contextlib.ExitStack() as ends:
                crew = None
                if members is not None:
                    crew = ends.enter_context(led(opened, members, url, trial_seconds=timeout, say=watcher.say))
                stopped = run_search(opened, situation, space, workers, plan, watcher, own, crew)
            interrupted = False
        except KeyboardInterrupt:
            if opened.situation is None:
                raise
        finally:
            workers.close()
    return result_of(opened, stopped=stopped, interrupted=interrupted, run=run)


def _probe(workers: Workers, deadline: float | None) -> Situation:
    try:
        return workers.probe()
    except AutofitError:
        if deadline is not None and time.monotonic() >= deadline:
            raise UserError(
                "The budget ended before the device and the model were looked at: importing torch alone takes seconds; "
                "raise --budget."
            ) from None
        raise


def load(study: str | None = None, *, storage: str | None = None) -> SearchResult:
    """A stored study's result; the newest one's where no name is given. Raises UserError where there is none."""
    opened = load_study(storage or default_storage(), study)
    return result_of(opened, stopped=opened.stopped)


def load_explained(study: str | None = None, *, storage: str | None = None) -> tuple[SearchResult, Explanation | None]:
    """A stored study's result and why it recommends what it does; None where nothing was measured to explain."""
    result = load(study, storage=storage)
    try:
        return result, explain(result.study, storage=storage)
    except UserError:
        return result, None


def result_of(study: Study, *, stopped: str = "", interrupted: bool = False, run: Run | None = None) -> SearchResult:
    """The content of a study now. Raises UserError where no worker has looked at the device yet."""
    situation = study.situation
    if situation is None:
        raise UserError(f"Study '{study.name}' was begun, but nothing was tried yet.")
    return SearchResult(
        study=study.name,
        storage=study.storage_url,
        record=study.record,
        situation=situation,
        trials=study.trials(),
        stopped=stopped,
        interrupted=interrupted,
        run=run,
    )


def explain(study: str | None = None, *, storage: str | None = None) -> Explanation:
    """Reasons of a stored study's recommendation; of the newest one where no name is given. Raises UserError."""
    opened = load_study(storage or default_storage(), study)
    if opened.situation is None:
        raise UserError(f"Study '{opened.name}' was begun, but nothing was tried yet.")
    return explain_trials(opened.situation, opened.request, opened.trials(), opened.predicted)


def replay(study: str | None, number: int, *, storage: str | None = None) -> tuple[Trial, RunResult, str]:
    """Run a stored trial again: the trial as it was, what came of it now, and the worker's own command line.

    Nothing is stored. Raises UserError where there is no such trial.
    """
    opened = load_study(storage or default_storage(), study)
    trial = next((each for each in opened.trials() if each.number == number), None)
    if trial is None or opened.situation is None:
        raise UserError(f"Study '{opened.name}' has no trial {number}; 'autofit show --json' lists them.")
    workers = _workers(opened, lambda sentence: None)
    try:
        plan = MeasuringPlan(whole=trial.whole, seed=opened.record.seed)
        result = workers.runner(opened.situation).run(recipe_for(trial.config, opened.situation), plan, "replay")
    finally:
        workers.close()
    return trial, result, f"{sys.executable} -P -m autofit.worker.job {opened.log_folder / 'replay.json'}"


def verify(
    study: str | None = None,
    *,
    trials: Sequence[int] | None = None,
    storage: str | None = None,
    announce: Announce = lambda sentence: None,
) -> list[Comparison]:
    """Comparisons of a study's configurations with the plainest one, as training; see ``equivalence``.

    ``trials`` names them by their trials' numbers; the best one where none is named. One that is not the
    same is stored as ``invalid``. Raises UserError where there is no such trial or nothing was measured.
    """
    opened = load_study(storage or default_storage(), study)
    result = result_of(opened)
    chosen = _trials_to_verify(opened, trials) if trials else [result.best.trial]
    record, situation = opened.record, result.situation
    if record.workload.processes > 1:
        raise UserError(
            f"Study '{opened.name}' is of a training in {record.workload.processes} processes, and verify compares "
            "what one process trains: search with --processes 1 and verify that."
        )
    workers = _workers(opened, announce)

    def run(config: TrainConfig) -> StepResult:
        announce(f"Training one effective batch: {describe(config)}")
        job = StepJob(
            model=record.model,
            workload=record.workload,
            recipe=recipe_for(config, situation),
            device=workers.workshop().torch_device,
            seed=record.seed,
            trust_remote_code=record.trust_remote_code,
        )
        answer, how_it_ended = workers.workshop().ask(job, "verify", MOST_SECONDS)
        if isinstance(answer, StepResult):
            return answer
        return StepResult(outcome=Outcome.CRASHED, reason=f"its worker {how_it_ended}")

    try:
        labelled = [(f"trial {trial.number}", trial.config) for trial in chosen]
        comparisons = check_equivalence(labelled, situation, run)
    finally:
        workers.close()
    problems = {each.label: each.problem for each in comparisons if each.loss_difference is not None}
    for trial, (label, _) in zip(chosen, labelled, strict=True):
        problem = problems.get(label)
        if problem is not None:
            number = opened.begin(trial.config)
            values = dict(trial.config)
            opened.finish(Trial(number=number, values=values, outcome=Outcome.INVALID, reason=problem, whole=True))
    return comparisons


def _trials_to_verify(opened: Study, numbers: Sequence[int]) -> list[Trial]:
    by_number = {trial.number: trial for trial in opened.trials()}
    unknown = [number for number in numbers if number not in by_number]
    if unknown:
        raise UserError(f"Study '{opened.name}' has no trial {unknown[0]}; 'autofit show --json' lists them.")
    return [by_number[number] for number in numbers]


def examine(model: str, *, device: str = "auto", trust_remote_code: bool = False) -> Situation:
    """Facts about the device, the libraries and a model, from a worker; nothing is trained or stored."""
    source = resolve_model(model, trust_remote_code=trust_remote_code)
    of_text = task_of(source.config, source.head).reads == "tokens"
    record = JobRequest(
        model=model,
        effective_batch=1,
        # Two lengths, so that every layout is looked at.
        lengths=(2, 3) if of_text else None,
        device=device,
        trust_remote_code=trust_remote_code,
    ).record()
    with Workers(record, home() / "logs" / "doctor", home() / "traces", lambda sentence: None) as workers:
        return workers.probe()


def _workers(
    study: Study, announce: Announce, most_seconds: float = MOST_SECONDS, deadline: float | None = None
) -> Workers:
    situation = study.situation
    if situation is not None and situation.program is not None:
        raise UserError(
            f"Study '{study.name}' is of a program of your own, which is not run by this command: "
            "autofit run -- COMMAND runs it again."
        )
    return Workers(
        study.record, study.log_folder, home() / "traces", announce, most_seconds=most_seconds, deadline=deadline
    )


def _what_is_left_out(space: SearchSpace, model: str) -> str:
    """Choices that the request itself left out by name, and the command that lists the unavailable ones."""
    numerics = [refusal for refusal in space.refusals if refusal.because is Because.NUMERICS]
    sentence = f"{len(space.refusals)} choices are not searched here; 'autofit doctor {model}' says why"
    if numerics:
        named = ", ".join(f"{refusal.knob}={refusal.value}" for refusal in numerics)
        sentence += f". --numerics {space.request.numerics} leaves out {named}; --numerics aggressive does not"
    if space.situation.workload.lengths.all_equal and task_named(space.situation.workload.task).reads == "tokens":
        length = space.situation.workload.sequence_length
        sentence += f". Every sample is taken to have {length} tokens: --data FILE searches padding and packing too"
    return f"{sentence}."
