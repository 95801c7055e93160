"""Tracing one step of the real Trainer on tensors without data."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.initialization import no_init_weights

from autofit.recipe import Recipe
from autofit.tasks import Task
from autofit.trace import Category, Phase, StepTrace
from autofit.tracer.dataless import Dataless
from autofit.tracer.recorder import Recorder
from autofit.tracer.target import Target
from autofit.trial.batches import GivenMicroBatches, MicroBatch, shape_of
from autofit.trial.build import build_collator, import_what_it_needs, short_arguments
from autofit.trial.optimizer_state import state_tensors
from autofit.trial.samples import SamplesByLength


class TracedTrainer(Trainer):  # type: ignore[misc]
    """The Trainer, telling a Recorder which phase it is in."""

    recorder: Recorder
    micro_batch: MicroBatch

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self.recorder.begin(Phase.FETCH)
        batches, num_items_in_batch = super().get_batch_samples(*args, **kwargs)
        self.recorder.take_inputs(batches)
        return batches, num_items_in_batch

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self.recorder.begin(Phase.FORWARD)
        loss = super().training_step(*args, **kwargs)
        self.recorder.begin(Phase.UPDATE)
        return loss

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return GivenMicroBatches(lambda: iter([list(self.micro_batch)]), 1)


class _StepEnd(TrainerCallback):  # type: ignore[misc]
    """Ends the recording when the optimizer's step is over and gradients are gone."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self._recorder.end()
        return control


def trace_step(
    build: Callable[[], Any],
    recipe: Recipe,
    task: Task,
    micro_batch: Sequence[int],
    target: Target,
    *,
    truth: bool = True,
    seed: int = 0,
) -> StepTrace:
    """Trace one optimizer step of one micro-batch.

    ``build`` makes the model; it is called within the mode. ``micro_batch`` holds the lengths of its samples;
    ``truth`` says whether they fill their rows, one in each. ``recipe`` is one that ``target`` finds traceable.
    Raises whatever a model that cannot be traced raises.
    """
    shape = shape_of(tuple(micro_batch), recipe.collator, recipe.collator_kwargs)
    import_what_it_needs(recipe)
    recorder = Recorder()
    mode = Dataless(recorder, truth=truth)
    with target.rules(mode, recorder), tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        with mode, weights_left_as_they_are():
            model = build()
        recorder.vocabulary_size = int(getattr(model.config.get_text_config(), "vocab_size", 0) or 0)
        samples = SamplesByLength(task, model.config, max(micro_batch), seed)
        arguments = short_arguments(
            recipe,
            scratch,
            max_steps=1,
            per_device_train_batch_size=len(micro_batch),
            gradient_accumulation_steps=1,
        )
        collator = build_collator(recipe, model.config)
        with mode:
            trainer = TracedTrainer(model=model, args=arguments, train_dataset=samples, data_collator=collator)
            trainer.recorder, trainer.micro_batch = recorder, tuple(micro_batch)
            trainer.add_callback(_StepEnd(recorder))
            recorder.name([*model.parameters(), *model.buffers()], Category.WEIGHTS)
            _hear_of_gradients(model, recorder)
            _hear_of_backward(trainer, recorder)
            trainer.train()
            recorder.name(state_tensors(trainer.optimizer), Category.OPTIMIZER_STATE)
            return recorder.trace(shape.rows, shape.length)


@contextlib.contextmanager
def weights_left_as_they_are() -> Iterator[None]:
    """Nothing is drawn for weights without data; drawing until all values lie in a range would never end."""
    tie = PreTrainedModel.tie_weights
    with no_init_weights():
        # The context takes tying away too, which is part of the same method.
        PreTrainedModel.init_weights = lambda model: tie(model, recompute_mapping=False)
        yield


def _hear_of_gradients(model: torch.nn.Module, recorder: Recorder) -> None:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for number, weight in enumerate(trained):
        weight.register_post_accumulate_grad_hook(functools.partial(recorder.became_gradient, number))


def _hear_of_backward(trainer: Any, recorder: Recorder) -> None:
    backward = trainer.accelerator.backward

    def marked(*args: Any, **kwargs: Any) -> Any:
        recorder.begin(Phase.BACKWARD)
        return backward(*args, **kwargs)

    trainer.accelerator.backward = marked
