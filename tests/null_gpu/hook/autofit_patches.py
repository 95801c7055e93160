"""Parts of autofit and of DeepSpeed that check arithmetic, which the null GPU does not do; all else is what is shipped.

``sitecustomize`` calls each function with the module as soon as it was imported.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import msgspec


def samples_do_not_see_each_other(module: ModuleType) -> None:
    """Outputs are not computed, so whether they leak cannot be seen."""
    module.leak_between_samples = lambda *arguments, **named: None  # type: ignore[attr-defined]


def loss_and_gradients_are_one(module: ModuleType) -> None:
    """A step that got through has the loss and the gradient norm of every other."""
    train = module.train_one_step

    def train_one_step(job: Any) -> Any:
        result = train(job)
        return result if result.loss is None else msgspec.structs.replace(result, loss=1.0, gradient_norm=1.0)

    module.train_one_step = train_one_step  # type: ignore[attr-defined]


def gradients_are_finite(module: ModuleType) -> None:
    """DeepSpeed leaves a step out, in bf16 too, where it finds a gradient that is not."""
    import torch

    module.has_inf_or_nan = lambda x: torch.tensor(False, device=x.device)  # type: ignore[attr-defined]
    module.is_invalid_grad_norm = lambda norm: False  # type: ignore[attr-defined]


PATCHES = {
    "deepspeed.runtime.utils": gradients_are_finite,
    "autofit.worker.isolation": samples_do_not_see_each_other,
    "autofit.worker.one_step": loss_and_gradients_are_one,
}
