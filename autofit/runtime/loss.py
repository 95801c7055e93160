"""Losses of Trainers: whether a step's gradient is the same however its micro-batches are cut."""

from __future__ import annotations

import dis
import inspect
from typing import Any

_NUMBERS_OF_MICRO_BATCHES = ("gradient_accumulation_steps", "current_gradient_accumulation_steps")


def scales_by_items(trainer: Any) -> bool:
    """True where a Trainer takes the loss as scaled for the whole step, and False where it divides by micro-batches.

    As ``training_step`` of transformers 5.23 decides it: a Trainer may say so itself (``loss_is_scaled_for_ga``).
    """
    said = getattr(trainer, "loss_is_scaled_for_ga", None)
    return bool(trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None) if said is None else said


def sums_means(trainer: Any) -> bool:
    """True where a step's gradient is a sum over micro-batches of means: another split is then another training.

    A ``compute_loss`` of the program's own that leaves ``num_items_in_batch`` unused over a model that counts items
    gives means that nobody divides. Where batches have no labels no items are counted, and the Trainer divides.
    """
    if getattr(trainer, "loss_is_scaled_for_ga", None) is not None:
        return False  # somebody thought of it
    if not scales_by_items(trainer) or trainer.compute_loss_func is not None:
        return False
    compute_loss = inspect.unwrap(type(trainer).compute_loss)
    if compute_loss.__module__.startswith("transformers.") or not inspect.isfunction(compute_loss):
        return False
    given = {name for name, each in inspect.signature(compute_loss).parameters.items() if _takes_items(name, each)}
    instructions = list(dis.get_instructions(compute_loss))
    divides = any(instruction.argval in _NUMBERS_OF_MICRO_BATCHES for instruction in instructions)
    return not divides and not any(_loads(instruction, given) for instruction in instructions)


def _takes_items(name: str, parameter: inspect.Parameter) -> bool:
    return name == "num_items_in_batch" or parameter.kind is parameter.VAR_KEYWORD


def _loads(instruction: dis.Instruction, names: set[str]) -> bool:
    value = instruction.argval  # of some instructions two names
    is_of_variable = any(kind in instruction.opname for kind in ("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE"))
    return is_of_variable and bool(names & set(value if isinstance(value, tuple) else (value,)))
