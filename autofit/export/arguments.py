"""TrainingArguments taken apart, for trainers that have names of their own for some of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
"""The argument's names in newer and older releases of transformers; its options are named ``..._kwargs``."""


class Checkpointing(NamedTuple):
    """Activation checkpointing of a configuration. ``others`` are options beside ``use_reentrant``, in words."""

    is_on: bool
    use_reentrant: bool
    others: tuple[str, ...]


def checkpointing_of(arguments: Mapping[str, Any]) -> Checkpointing:
    """Activation checkpointing as the arguments have it."""
    options: dict[str, Any] = {}
    for name in CHECKPOINTING:
        options |= arguments.get(f"{name}_kwargs") or {}
    others = tuple(f"checkpointing with {name}={value}" for name, value in options.items() if name != "use_reentrant")
    is_on = any(arguments.get(name) for name in CHECKPOINTING)
    return Checkpointing(is_on, bool(options.get("use_reentrant", True)), others)


def known_and_others(arguments: Mapping[str, Any], known: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """The arguments that a trainer takes by their own names, and the others in words; checkpointing is in neither."""
    rest = {name: value for name, value in arguments.items() if name.removesuffix("_kwargs") not in CHECKPOINTING}
    taken = {name: value for name, value in rest.items() if name in known}
    return taken, [f"{name}={value}" for name, value in rest.items() if name not in known]
