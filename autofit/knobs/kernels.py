"""Fused kernels for norms, activations, rotary embeddings and the loss."""

from __future__ import annotations

from autofit.job.situation import Situation
from autofit.knobs.availability import first_of, missing, needs_cuda
from autofit.knobs.knob import Choice, Knob


def _unsupported_by_liger(situation: Situation) -> str | None:
    if situation.model.liger_supports:
        return None
    # use_liger_kernel would be accepted and do nothing.
    return f"liger-kernel has no kernels for {situation.model.model_type} models"


KERNELS = Knob(
    name="kernels",
    title="kernels",
    question="Do norms, activations and the loss run in fused kernels?",
    reference="default",
    label="kernels",
    choices=(
        Choice(value="default", title="the model's own code"),
        Choice(
            value="liger",
            title="Liger's Triton kernels; the logits are never materialised",
            training_arguments={"use_liger_kernel": True},
            unavailable=first_of(
                needs_cuda("Liger"), missing("liger_kernel"), missing("inductor"), _unsupported_by_liger
            ),
        ),
    ),
)
