"""Knobs in a user's own program: those left to be searched, its own choice on each, and the changes a choice makes.

Only what acts after ``Trainer.train()`` begins can be changed. What the program has decided before stays as it is:
the dtype of the weights, quantization, adapters, how samples become rows, an optimizer or a sampler of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from autofit.errors import UserError
from autofit.job.program import Program
from autofit.job.situation import Situation
from autofit.knobs.allocator import ALLOCATOR, NEWER_VARIABLE
from autofit.knobs.baseline import choices_that_say, names_of, normalized
from autofit.knobs.knob import PROGRAMS_OWN, Choice, Knob
from autofit.knobs.numerics import Numerics
from autofit.knobs.parallelism import PARALLELISM
from autofit.knobs.precision import with_tf32_of_compiling
from autofit.knobs.table import KNOBS
from autofit.knobs.train_config import TrainConfig

ACTS_LATE = ("attn_implementation",)
"""Keywords of ``from_pretrained`` that can still be changed when the model is there."""
ACTS_EARLY = ("deepspeed",)
"""TrainingArguments that act before, as the model is loaded."""


def with_values(situation: Situation) -> Situation:
    """The situation with its program's own choice on every knob, and the reasons for what is not searched.

    Raises UserError where the program trains in a way that autofit does not measure.
    """
    program = situation.program
    assert program is not None, "this is for programs"
    settings = with_tf32_of_compiling(normalized(program.settings), situation)
    _check_sharing(program.name, settings)
    own, values = dict(program.own), {}
    for row in KNOBS:
        fitting = choices_that_say(row, settings)
        if not row.is_of_processes:  # those settings are accelerate's own, whatever they were read from
            variables = {name for choice in row.choices for name in choice.environment} & program.environment.keys()
            present = {name: program.environment[name] for name in variables}
            fitting = [choice for choice in fitting if choice.environment == present]
            if present:
                own.setdefault(row.name, f"{row.title} is set in the environment that the program runs in")
        chosen = next((choice for choice in fitting if choice.value == row.reference), next(iter(fitting), None))
        if chosen is None:
            own.setdefault(row.name, f"{row.title} is the program's own: {_said(row, settings)}")
        elif chosen.numerics is Numerics.OTHER_ALGORITHM:
            own.setdefault(row.name, f"{chosen.value} is the program's own algorithm; another would train otherwise")
        values[row.name] = PROGRAMS_OWN if chosen is None else str(chosen.value)
    # Its layout is whatever its data set and collator make, for which there is no name.
    values["batch_layout"] = PROGRAMS_OWN
    own.setdefault("batch_layout", "the program's own data set and collator make the micro-batches")
    if NEWER_VARIABLE in program.environment:
        values[ALLOCATOR.name] = PROGRAMS_OWN
        own.setdefault(ALLOCATOR.name, f"{NEWER_VARIABLE} is set in the environment that the program runs in")
    return replace(situation, program=msgspec.structs.replace(program, own=own, values=values))


def _check_sharing(name: str, settings: dict[str, Any]) -> None:
    """Raises UserError for a way of sharing a training that no choice says."""
    engine = settings.get("deepspeed") or {}
    if engine.get("tensor_parallel", {}).get("autotp_size", 0) > 1 or engine.get("sequence_parallel_size", 1) > 1:
        raise UserError(
            f"{name} shares each sample among processes by DeepSpeed (tensor_parallel, sequence_parallel_size), which "
            "autofit does not measure: run it without."
        )
    if settings.get("parallelism_config"):
        raise UserError(f"{name} sets parallelism_config, with which autofit does not measure yet: run it without.")
    if settings.get("fsdp") and not choices_that_say(PARALLELISM, settings):
        raise UserError(
            f"{name} trains with FSDP in a way that autofit does not measure ({settings['fsdp_config']}): it knows "
            "FSDP2 that reshards after forward, with or without cpu_offload, and FSDP2 that does not."
        )


def own_config(program: Program) -> TrainConfig:
    """The configuration that the program trains with now."""
    batch = {"micro_batch_size": program.micro_batch_size, "accumulation_steps": program.accumulation_steps}
    return TrainConfig({**{row.name: value_of(program, row) for row in KNOBS}, **batch})


def value_of(program: Program, row: Knob) -> str:
    """The program's own choice on a knob; the reference where its study was made before there was that knob."""
    return program.values.get(row.name, str(row.reference))


def refused_by_program(program: Program, row: Knob, choice: Choice) -> str | None:
    """Reason that a choice cannot be had in a program; None where it can."""
    settings = normalized(program.settings)
    for name, value in choice.model_kwargs.items():
        if name not in ACTS_LATE and settings.get(name) != value:
            return f"the program's weights are {settings.get(name)}, and {choice.value} is for weights in {value}"
    if any(name in ACTS_EARLY for name in choice.training_arguments):
        return "DeepSpeed has to be asked for before the program loads its model"
    return None


def changes(config: TrainConfig, program: Program) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Changes that a configuration makes in a program: TrainingArguments, model keywords, environment variables.

    Of each knob whose value is not the program's own, every setting that its choices know.
    """
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation_steps,
    }
    model_kwargs: dict[str, Any] = {}
    environment: dict[str, str] = {}
    for row in KNOBS:
        choice = row.choice(config[row.name])
        if config[row.name] == value_of(program, row):
            continue
        arguments |= {**_unset(row), **choice.training_arguments}
        model_kwargs |= {name: value for name, value in choice.model_kwargs.items() if name in ACTS_LATE}
        environment |= choice.environment
    return arguments, model_kwargs, environment


def _unset(row: Knob) -> dict[str, Any]:
    """Every setting of a knob's choices as it is when nobody sets it: switches off, numbers 0, the rest None."""
    settings = [each.training_arguments for each in row.choices]
    return {
        name: type(value)() if isinstance(value, (bool, int)) else None
        for each in settings
        for name, value in each.items()
        if name not in ACTS_EARLY
    }


def _said(row: Knob, settings: dict[str, Any]) -> str:
    said = [f"{name}={settings[name]}" for name in sorted(names_of(row)) if settings.get(name)]
    return ", ".join(said) or "none of autofit's choices says what it does"
