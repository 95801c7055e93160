"""One optimizer step of the real Trainer on a fixed effective batch: what it learns from, not how fast.

Two recipes that are the same training give the same loss and the same gradients here, whatever they split,
pad, recompute or fuse.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from typing import Any

import msgspec
import torch
from transformers import Trainer, TrainerCallback, set_seed

from autofit.job.tasks import task_named
from autofit.study.outcome import Outcome
from autofit.trial.protocol import StepJob, StepResult
from autofit.worker.batches import GivenMicroBatches, cut
from autofit.worker.build import build_collator, build_trial_model, config_for, import_what_it_needs, short_arguments
from autofit.worker.made_up_samples import SamplesByLength


def train_one_step(job: StepJob) -> StepResult:
    """Run the job. Raises whatever the libraries raise."""
    if job.recipe.adapter is not None:
        job = msgspec.structs.replace(
            job, recipe=replace(job.recipe, adapter={**job.recipe.adapter, "lora_dropout": 0.0})
        )
    import_what_it_needs(job.recipe)
    config = without_dropout(config_for(job))
    set_seed(job.seed)
    model = build_trial_model(job, config)
    lengths = job.workload.lengths.frozen_samples(job.workload.effective_batch, job.seed)
    lengths = lengths[: job.workload.samples_per_process]
    task = task_named(job.workload.task)
    source = SamplesByLength(task, model.config, job.workload.lengths.longest, job.seed)
    samples = [source[length] for length in lengths]
    return step(model, samples, job.recipe, build_collator(job.recipe, model.config), lengths, job.seed)


def without_dropout(config: Any) -> Any:
    """The configuration with every dropout at 0, however the model calls it: losses could not be compared with it."""
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for name, value in part.to_dict().items():
            if isinstance(value, float) and "drop" in name:
                setattr(part, name, 0.0)
    return config


def step(
    model: Any,
    samples: list[dict[str, torch.Tensor]],
    recipe: Any,
    collator: Any,
    lengths: list[int],
    seed: int,
    trainer_class: type[Trainer] = Trainer,
) -> StepResult:
    """One optimizer step over ``samples``, cut as the recipe says. ``trainer_class`` is where tests break it."""
    gradients = _GradientNorm()

    class OneStep(trainer_class):  # type: ignore[misc]
        losses: list[torch.Tensor] = []  # noqa: RUF012 - the class is made for this one step

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            micro_batches = cut(lengths, recipe, seed)[0]
            return GivenMicroBatches(lambda: iter(micro_batches), len(micro_batches))

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            self.losses.append(loss.detach().clone())
            return loss

    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        arguments = short_arguments(recipe, scratch, seed=seed, max_steps=1, max_grad_norm=0.0)
        trainer = OneStep(model=model, args=arguments, train_dataset=samples, data_collator=collator)
        scaler = getattr(trainer.accelerator, "scaler", None)
        if scaler is not None:
            # The usual first scale, 65536, overflows often and is then only skipped over; there is but one step here.
            scaler._init_scale = 256.0
        gradients.trainer = trainer
        trainer.add_callback(gradients)
        trainer.train()
    loss = float(sum(loss.float() for loss in trainer.losses))
    if not math.isfinite(loss) or not math.isfinite(gradients.norm):
        return StepResult(outcome=Outcome.INVALID, reason=f"loss {loss}, gradient norm {gradients.norm}")
    return StepResult(outcome=Outcome.OK, loss=loss, gradient_norm=gradients.norm)


class _GradientNorm(TrainerCallback):  # type: ignore[misc]
    """The Euclidean norm of all gradients just before the optimizer takes them, loss scaling undone."""

    trainer: Any
    norm = math.nan

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        squares = [
            weight.grad.double().square().sum() for weight in self.trainer.model.parameters() if weight.grad is not None
        ]
        scaler = getattr(self.trainer.accelerator, "scaler", None)
        scale = scaler.get_scale() if scaler is not None and not _already_unscaled(scaler) else 1.0
        self.norm = float(torch.stack(squares).sum().sqrt()) / scale


def _already_unscaled(scaler: Any) -> bool:
    """Clipping divides the gradients by the scale; torch notes that per optimizer (torch/amp/grad_scaler.py)."""
    return any(state["stage"].value > 0 for state in scaler._per_optimizer_states.values())
