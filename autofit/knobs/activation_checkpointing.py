"""Which activations are kept for the backward pass, and which are computed again: a ladder."""

from __future__ import annotations

from typing import Any

from autofit.knobs.availability import first_of, needs_cuda
from autofit.knobs.knob import Choice, Knob, Unavailable
from autofit.situation import Situation

NAME = "activation_checkpointing"
LADDER = ("off", "every_4th", "every_3rd", "every_2nd", "every_layer", "offload")
"""From the most memory to the least."""


def _unsupported(situation: Situation) -> str | None:
    if situation.model.supports_checkpointing:
        return None
    return f"{situation.model.model_type} models do not support activation checkpointing"


def _every(number: int) -> Unavailable:
    """Layers 0, n, 2n ... are checkpointed; a small model may have no step of the ladder between two others."""

    def unavailable(situation: Situation) -> str | None:
        layers = situation.model.checkpointable_layers
        if layers is None:
            return f"{situation.model.model_type} models checkpoint all layers or none"
        chosen = -(-layers // number)
        denser = -(-layers // (number - 1))
        if chosen == denser:
            return f"in a model of {layers} layers it is the same as the next denser step"
        return None

    return first_of(_unsupported, unavailable)


def _arguments(**settings: Any) -> dict[str, Any]:
    return {NAME: True, f"{NAME}_kwargs": {"use_reentrant": False, **settings}}


ACTIVATION_CHECKPOINTING = Knob(
    name=NAME,
    title="checkpointing",
    question="Are activations kept for the backward pass, or computed again?",
    reference="off",
    label="checkpointing",
    choices=(
        Choice(value="off", title="every activation is kept"),
        Choice(
            value="every_layer",
            title="only layer inputs are kept",
            training_arguments=_arguments(),
            unavailable=_unsupported,
        ),
        Choice(
            value="every_2nd",
            title="every 2nd layer keeps only its input",
            training_arguments=_arguments(every_n_layers=2),
            unavailable=_every(2),
        ),
        Choice(
            value="every_3rd",
            title="every 3rd layer keeps only its input",
            training_arguments=_arguments(every_n_layers=3),
            unavailable=_every(3),
        ),
        Choice(
            value="every_4th",
            title="every 4th layer keeps only its input",
            training_arguments=_arguments(every_n_layers=4),
            unavailable=_every(4),
        ),
        Choice(
            value="offload",
            title="only layer inputs are kept, in the host's memory",
            training_arguments=_arguments(offload=True),
            not_traced="what is offloaded is counted as if it stayed on the device",
            unavailable=first_of(_unsupported, needs_cuda("keeping activations in the host's memory")),
        ),
    ),
)
