"""Losses of Trainers: whether a step's gradient is the same however its micro-batches are cut."""

from __future__ import annotations

import dis
import inspect
from typing import Any


def sums_means(trainer: Any) -> bool:
    """True where a step's gradient is a sum over micro-batches of means: another split is then another training.

    A Trainer divides by the number of micro-batches only for models that count no items (transformers 5.23,
    trainer.py, ``training_step``). A ``compute_loss`` of the program's own that leaves ``num_items_in_batch`` unused
    over a model that counts them gives means that nobody divides.
    """
    if not trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None:
        return False
    compute_loss = inspect.unwrap(type(trainer).compute_loss)
    if compute_loss.__module__.startswith("transformers.") or not inspect.isfunction(compute_loss):
        return False
    given = {name for name, each in inspect.signature(compute_loss).parameters.items() if _takes_items(name, each)}
    return not any(_loads(instruction, given) for instruction in dis.get_instructions(compute_loss))


def _takes_items(name: str, parameter: inspect.Parameter) -> bool:
    return name == "num_items_in_batch" or parameter.kind is parameter.VAR_KEYWORD


def _loads(instruction: dis.Instruction, names: set[str]) -> bool:
    value = instruction.argval  # of some instructions two names
    return "LOAD" in instruction.opname and bool(names & set(value if isinstance(value, tuple) else (value,)))
