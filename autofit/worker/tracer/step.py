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

from autofit.job.tasks import Task
from autofit.knobs.recipe import Recipe
from autofit.predict.trace import Category, Phase, StepTrace
from autofit.worker.batches import GivenMicroBatches, MicroBatch, shape_of
from autofit.worker.build import build_collator, import_what_it_needs, short_arguments
from autofit.worker.made_up_samples import SamplesByLength
from autofit.worker.optimizer_state import state_tensors
from autofit.worker.processes import allow_sharding_on_host, keep_whole
from autofit.worker.tracer.dataless import Dataless
from autofit.worker.tracer.liger import model_code_left_as_it_is
from autofit.worker.tracer.one_of_several import one_of
from autofit.worker.tracer.recorder import Recorder
from autofit.worker.tracer.target import Target


class TracedMarks:
    """Mixed into a Trainer's class: it tells a Recorder which phase it is in."""

    recorder: Recorder
    micro_steps = 1
    """Those that are still to come."""

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self.recorder.begin(Phase.FETCH)
        batches, num_items_in_batch = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        self.recorder.take_inputs(batches)
        return batches, num_items_in_batch

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self.recorder.begin(Phase.FORWARD)
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self.micro_steps -= 1
        if self.micro_steps == 0:
            self.recorder.have_gradients(trained_weights(self.model))  # type: ignore[attr-defined]
            self.recorder.begin(Phase.UPDATE)
        return loss


class TracedTrainer(TracedMarks, Trainer):  # type: ignore[misc]
    """The Trainer with marks, and with one micro-batch."""

    micro_batch: MicroBatch

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        number = self.micro_steps
        self.sampler = GivenMicroBatches(lambda: iter([list(self.micro_batch)] * number), number)
        return self.sampler

    def get_train_dataloader(self) -> Any:
        return keep_whole(super().get_train_dataloader(), self.sampler)


class StepEnd(TrainerCallback):  # type: ignore[misc]
    """Says when the optimizer's step is over and gradients are gone."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self._recorder.begin(Phase.EVALUATION)
        return control


def trace_step(
    build: Callable[[], Any],
    recipe: Recipe,
    task: Task,
    micro_batch: Sequence[int],
    target: Target,
    *,
    truth: bool = True,
    micro_steps: int = 1,
    seed: int = 0,
) -> StepTrace:
    """Trace one optimizer step of one micro-batch, or of two or three that are alike.

    ``build`` makes the model; it is called within the mode. ``micro_batch`` holds the lengths of its samples;
    ``truth`` says whether they fill their rows, one in each. ``recipe`` is one that ``target`` finds traceable.
    Raises whatever a model that cannot be traced raises.
    """
    shape = shape_of(tuple(micro_batch), recipe.collator, recipe.collator_kwargs)
    import_what_it_needs(recipe)
    recorder = Recorder()
    mode = Dataless(recorder, truth=truth)
    with (
        one_of(recipe, recorder),
        target.rules(mode, recorder),
        tempfile.TemporaryDirectory(prefix="autofit-") as scratch,
    ):
        with mode, weights_left_as_they_are():
            model = build()
        recorder.vocabulary_size = int(getattr(model.config.get_text_config(), "vocab_size", 0) or 0)
        samples = SamplesByLength(task, model.config, max(micro_batch), seed)
        arguments = short_arguments(
            recipe,
            scratch,
            max_steps=1,
            per_device_train_batch_size=len(micro_batch),
            gradient_accumulation_steps=micro_steps,
        )
        allow_sharding_on_host(arguments, recipe)
        collator = build_collator(recipe, model.config)
        with model_code_left_as_it_is(model, recipe):
            with mode:
                trainer = TracedTrainer(model=model, args=arguments, train_dataset=samples, data_collator=collator)
                trainer.micro_batch, trainer.micro_steps = tuple(micro_batch), micro_steps
                _listen(trainer, recorder)
                trainer.train()
                recorder.name(state_tensors(trainer.optimizer), Category.OPTIMIZER_STATE)
            # On the host, as a batch is collated.
            evaluated = [collator([samples[length] for length in micro_batch])]
            with mode:
                trace_evaluation(trainer, evaluated, recorder)
                recorder.end()
                return recorder.trace(shape.rows, shape.length)


def _listen(trainer: TracedTrainer, recorder: Recorder) -> None:
    """Have a recorder hear of a trainer's phases, of its weights and of their gradients."""
    trainer.recorder = recorder
    trainer.add_callback(StepEnd(recorder))
    recorder.name([*trainer.model.parameters(), *trainer.model.buffers()], Category.WEIGHTS)
    hear_of_gradients(trainer.model, recorder)
    hear_of_backward(trainer, recorder)


def trace_evaluation(trainer: Any, batches: list[Any], recorder: Recorder) -> None:
    """Trace one step of an evaluation of a collated batch, taken out of its list: nothing else may hold it then."""
    recorder.take_inputs(batches, Category.TEMPORARIES)
    trainer.model.eval()
    trainer.prediction_step(trainer.model, batches.pop(), prediction_loss_only=True)


@contextlib.contextmanager
def weights_left_as_they_are() -> Iterator[None]:
    """Nothing is drawn for weights without data; drawing until all values lie in a range would never end."""
    tie = PreTrainedModel.tie_weights
    with no_init_weights():
        # The context takes tying away too, which is part of the same method.
        PreTrainedModel.init_weights = lambda model: tie(model, recompute_mapping=False)
        yield


def trained_weights(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The weights that get gradients, in the order in which a recorder numbers them."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def hear_of_gradients(model: torch.nn.Module, recorder: Recorder) -> None:
    """Have the recorder told when each weight's gradient is there."""
    for number, weight in enumerate(trained_weights(model)):
        weight.register_post_accumulate_grad_hook(functools.partial(recorder.became_gradient, number))


def hear_of_backward(trainer: Any, recorder: Recorder) -> None:
    """Have the recorder told when the backward pass begins."""
    backward = trainer.accelerator.backward

    def marked(*args: Any, **kwargs: Any) -> Any:
        recorder.begin(Phase.BACKWARD)
        return backward(*args, **kwargs)

    trainer.accelerator.backward = marked
