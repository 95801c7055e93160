"""Activation checkpointing: a ladder from keeping all activations to computing all of them again."""

from __future__ import annotations

from typing import Any

from autofit.job.situation import Situation
from autofit.knobs.availability import first_of, needs_cuda
from autofit.knobs.knob import Choice, Knob, Unavailable

NAME, EVERY_LAYER = "activation_checkpointing", "every_layer"


def _unsupported(situation: Situation) -> str | None:
    if situation.model.supports_checkpointing:
        return None
    return f"{situation.model.model_type} models do not support activation checkpointing"


def _all_or_nothing(situation: Situation) -> str | None:
    if situation.model.checkpointing_options:
        return None
    return "checkpointing takes no every_n_layers and no offload here: transformers' own does, from 5.17 on"


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

    return first_of(_unsupported, _all_or_nothing, unavailable)


def _arguments(**settings: Any) -> dict[str, Any]:
    return {NAME: True, f"{NAME}_kwargs": {"use_reentrant": False, **settings}}


ACTIVATION_CHECKPOINTING = Knob(
    name=NAME,
    title="checkpointing",
    question="Are activations kept for the backward pass, or computed again?",
    reference="off",
    label="checkpointing",
    choices=(
        Choice(value="off", title="every activation is kept", rung=0),
        Choice(
            value=EVERY_LAYER,
            rung=4,
            title="only layer inputs are kept",
            training_arguments=_arguments(),
            unavailable=_unsupported,
        ),
        Choice(
            value="every_2nd",
            rung=3,
            title="every 2nd layer keeps only its input",
            training_arguments=_arguments(every_n_layers=2),
            unavailable=_every(2),
        ),
        Choice(
            value="every_3rd",
            rung=2,
            title="every 3rd layer keeps only its input",
            training_arguments=_arguments(every_n_layers=3),
            unavailable=_every(3),
        ),
        Choice(
            value="every_4th",
            rung=1,
            title="every 4th layer keeps only its input",
            training_arguments=_arguments(every_n_layers=4),
            unavailable=_every(4),
        ),
        Choice(
            value="offload",
            rung=5,
            title="only layer inputs are kept, in the host's memory",
            training_arguments=_arguments(offload=True),
            unavailable=first_of(_unsupported, needs_cuda("keeping activations in the host's memory"), _all_or_nothing),
        ),
    ),
)
