"""An exported file, and the facts that each of them states: how its settings were measured, and what it leaves out."""

from __future__ import annotations

import datetime
import textwrap
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from autofit.device.kinds import kind_of
from autofit.errors import UserError
from autofit.job.situation import Situation
from autofit.knobs.parallelism import OFFLOADING
from autofit.study.ranking import Ranked
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result
from autofit.units import format_bytes, format_seconds
from autofit.version import __version__

_WIDTH = 110


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Text of a file. ``left_out`` are settings that were measured and that its format cannot express."""

    text: str
    left_out: tuple[str, ...] = ()


def recommended(result: Result) -> tuple[Ranked, Recommendation]:
    """The recommended configuration and its settings. Raises UserError where nothing was measured."""
    recommendation, best = result.best.recommendation, result.ranking.best
    assert best is not None, "the result has looked"
    return best, recommendation


def of_causal_model(result: Result, trainer: str) -> tuple[Ranked, Recommendation]:
    """The same, for a trainer of causal language models. Raises UserError for a study of anything else."""
    check_is_causal(result.situation, trainer)
    return recommended(result)


def refuse_program(trainer: str) -> NoReturn:
    """Raises UserError: a program of one's own has its own file for a trainer."""
    raise UserError(
        f"Your own program has its own file for {trainer}: change in it what 'autofit show' lists, or export "
        "training-arguments or yaml."
    )


def check_is_causal(situation: Situation, trainer: str) -> None:
    """Raises UserError where a trainer of causal language models has no file for what is searched."""
    if situation.program is not None:
        refuse_program(trainer)
    if situation.workload.task != "causal-lm":
        raise UserError(f"{trainer} is exported for causal language models, and this is {situation.workload.task}.")


def model_name(result: Result) -> str:
    """The model by its hub name, or its folder wherever the file is used."""
    source = result.record.model
    return source.path if source.origin == "folder" and source.path is not None else result.record.workload.model


def all_arguments(result: Result) -> dict[str, Any]:
    """TrainingArguments that are known: the recommended ones, of a program over those that it has itself."""
    _, recommendation = recommended(result)
    program = result.situation.program
    return {**({} if program is None else program.settings), **recommendation.training_arguments}


def measured(result: Result) -> str:
    """Sentence of a file: how fast the recommended configuration ran, what it needed, and on what."""
    best, _ = recommended(result)
    record, processes = result.record, result.record.workload.processes
    shared, each = ("", "") if processes == 1 else (f" in {processes} processes", " by each")
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return (
        f"Measured: {format_seconds(best.measurement.step_seconds)} per optimizer step of "
        f"{record.workload.effective_batch} samples{shared}, {format_bytes(best.measurement.memory.needed)} "
        f"needed{each}, on {result.situation.device.name} with {versions}."
    )


def processes_left_out(result: Result) -> tuple[str, ...]:
    """The part that a file leaves out which does not say in how many processes it trains."""
    processes = result.record.workload.processes
    if processes == 1:
        return ()
    return (f"the {processes} processes that it was measured in, each with the batch that stands here: start as many",)


def wrapped(text: str) -> str:
    """A paragraph of a file, in lines."""
    return textwrap.fill(text, _WIDTH, break_long_words=False)


def header(result: Result, left_out: tuple[str, ...] = (), use: str = "", shell: str = "") -> list[str]:
    """Lines that say what the settings are, how they were measured and, of a file that leaves some out, which.

    ``use`` says what to do with the file, ``shell`` is the command for it, on a line of its own.
    """
    _, recommendation = recommended(result)
    paragraphs = [
        f"Training settings for {result.record.workload.model}, found by autofit {__version__}; exported on "
        f"{datetime.date.today().isoformat()} from study '{result.study}'{_rank(result)}.",
        measured(result),
        recommendation.warning,
    ]
    if left_out:
        paragraphs.append(f"NOT THE MEASURED CONFIGURATION. Left out of this file: {'; '.join(left_out)}.")
    if recommendation.environment and not left_out and not shell:
        words = " ".join(f"{name}={value}" for name, value in recommendation.environment.items())
        paragraphs.append(f"Measured with these variables set: {words}")
    paragraphs.append(use)
    lines = [line for text in paragraphs if text for line in wrapped(text).splitlines()]
    return [*lines, f"    {shell}"] if shell else lines


def _rank(result: Result) -> str:
    """The rank of the configuration, where somebody chose another than the recommended one."""
    return "" if result.rank is None else f", rank {result.rank}, which was chosen"


def command(result: Result, words: str, **variables: str) -> str:
    """A shell command that trains on the measured device alone, with the variables that were measured and others.

    It is for programs whose files leave ``fsdp`` out: ACCELERATE_USE_FSDP alone would have accelerate use FSDP with its
    default settings.
    """
    _, recommendation = recommended(result)
    workload, device = result.record.workload, result.situation.device
    measured = {name: value for name, value in recommendation.environment.items() if name not in OFFLOADING}
    environment = {**variables, **measured}
    if workload.processes == 1:
        environment["CUDA_VISIBLE_DEVICES"] = "" if kind_of(device).is_host else str(device.index)
    return " ".join([*(f"{name}={value}" for name, value in environment.items()), words])


def as_yaml(document: dict[str, Any], header_lines: list[str]) -> str:
    """A YAML file: the header as comments, then the keys in their order."""
    comments = "".join(f"# {line}\n" for line in header_lines)
    return comments + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=_WIDTH)
