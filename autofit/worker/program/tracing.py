"""Steps of a program's own Trainer, traced on tensors without data: what predictions for it are made of.

No model is rebuilt from a configuration: the program's own has its weights taken away in place, in a forked process,
and its own collator, loss, adapters and forward run. What branches on values cannot be traced, and says so.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.utils._python_dispatch

from autofit.job.program import ProgramSamples
from autofit.predict.micro_batches import MOST_IN_ORDER, FilledShape, MicroBatches
from autofit.predict.trace import Category, Phase, StepTrace
from autofit.predict.trace_request import TraceDocument, TraceRequest
from autofit.runtime.mixin import become
from autofit.trial.protocol import (
    BatchesResult,
    ProgramBatchesJob,
    ProgramTraceJob,
    TracesResult,
    write_document,
)
from autofit.worker.accelerator import hide_devices
from autofit.worker.batches import MicroBatch
from autofit.worker.collated import shape_of_batch
from autofit.worker.optimizer_state import state_tensors
from autofit.worker.program.samples import ProgramBatches, Source
from autofit.worker.program.settings import evaluates, models_of, put, tensors_of_models
from autofit.worker.tracer.dataless import Dataless
from autofit.worker.tracer.recorder import Recorder
from autofit.worker.tracer.step import StepEnd, TracedMarks, hear_of_backward, hear_of_gradients, trace_evaluation
from autofit.worker.tracer.target import Target


def micro_batches_of(trainer: Any, job: ProgramBatchesJob) -> BatchesResult:
    """Micro-batches that the program's collator makes at each size: rows are samples, whatever they become."""
    source = Source(trainer, fewest=job.samples.fewest)
    found = []
    for layout in job.layouts:
        batches = ProgramBatches(replace(layout, processes=1), job.samples, source)

        def shape(micro_batch: MicroBatch, batches: ProgramBatches = batches) -> FilledShape:
            padded, rows = batches.shape(micro_batch).padded_tokens, len(micro_batch)
            return FilledShape(rows=rows, length=-(-padded // rows), is_full=batches.is_full(micro_batch))

        every = [shape(micro_batch) for each in batches.effective_batches for micro_batch in each]
        steps = -(-MOST_IN_ORDER // layout.accumulation_steps)
        found.append(
            MicroBatches(
                worst=tuple(shape(each) for each in batches.worst),
                in_order=tuple(
                    tuple(shape(each) for each in step[:MOST_IN_ORDER]) for step in batches.effective_batches[:steps]
                ),
                mean_tokens=sum(each.padded_tokens for each in every) / len(every),
                mean_scores=sum(each.rows * each.length**2 for each in every) / len(every),
            )
        )
    return BatchesResult(batches=tuple(found))


def trace_program(trainer: Any, train: Callable[..., Any], job: ProgramTraceJob) -> TracesResult:
    """Write every request's document, each traced in a process of its own: a trace takes the program's weights away."""
    hide_devices()
    torch.set_num_threads(1)
    source = Source(trainer, fewest=job.samples.fewest)
    running: list[int] = []
    for request in job.requests:
        if len(running) == job.processes:
            os.waitpid(running.pop(0), 0)
        child = os.fork()
        if child == 0:
            try:
                write_document(Path(request.path), _document(trainer, train, source, job.samples, request))
            finally:
                os._exit(0)
        running.append(child)
    for child in running:
        os.waitpid(child, 0)
    return TracesResult()


def _document(
    trainer: Any, train: Callable[..., Any], source: Source, samples: ProgramSamples, request: TraceRequest
) -> TraceDocument:
    began = time.perf_counter()
    try:
        places = _places(samples, source, request.micro_batch)
        trace: StepTrace | None = _trace(trainer, train, source, places, request)
        refusal = ""
    except Exception as error:  # it becomes the sentence that says why nothing is predicted
        traceback.print_exc()
        trace, refusal = None, f"the program cannot be traced: {type(error).__name__}: {_first_line(error)}"
    return TraceDocument(trace=trace, refusal=refusal, seconds=time.perf_counter() - began)


def _trace(
    trainer: Any, train: Callable[..., Any], source: Source, places: MicroBatch, request: TraceRequest
) -> StepTrace:
    """One optimizer step of one micro-batch, then an evaluation of it. Raises what code that asks for values raises."""
    target = Target(kind=request.target, compute_capability=request.compute_capability)
    recipe = target.traceable(request.recipe)
    arguments, model = trainer.args, trainer.model
    if arguments.fp16:
        arguments.fp16, arguments.bf16 = False, True  # a CPU has no autocast to float16, which copies the same
    micro_batch = source.batch(places)
    recorder = Recorder()
    mode = Dataless(recorder, truth=request.truth)
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        recorder.vocabulary_size = int(getattr(config.get_text_config(), "vocab_size", 0) or 0)
    become(trainer, _Traced)
    trainer.recorder, trainer.given_batch = recorder, micro_batch
    handler = trainer.callback_handler
    handler.callbacks = [each for each in handler.callbacks if type(each).__name__ == "DefaultFlowCallback"]
    trainer.add_callback(StepEnd(recorder))
    with target.rules(mode, recorder):
        # Within the rules: they register the attention that stands for a card's.
        put(trainer, replace(recipe, training_arguments={**recipe.training_arguments, **_OF_ONE_STEP}))
        for each in models_of(trainer):
            _take_data_away(each, mode)
        with mode:
            recorder.name(tensors_of_models(trainer), Category.WEIGHTS)
            hear_of_gradients(model, recorder)
            hear_of_backward(trainer, recorder)
            train(trainer)
            recorder.name(state_tensors(trainer.optimizer), Category.OPTIMIZER_STATE)
        evaluated = [source.batch(places)]
        with mode:
            if evaluates(arguments):
                trace_evaluation(trainer, evaluated, recorder)
            recorder.end()
    return recorder.trace(len(places), -(-shape_of_batch(micro_batch).padded_tokens // len(places)))


_OF_ONE_STEP = {
    "max_steps": 1,
    "disable_tqdm": True,
    "logging_nan_inf_filter": False,
    "eval_on_start": False,
    "auto_find_batch_size": False,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": False,
    "gradient_accumulation_steps": 1,
}


class _Traced(TracedMarks):
    """Mixed into the program's own Trainer class: phases told to the recorder, one given batch, nothing written."""

    given_batch: Any

    def get_train_dataloader(self) -> Any:
        return [self.given_batch]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        # What counts the step's items asks labels for their number: outside of the mode, whose tensors have none.
        self.recorder.begin(Phase.FETCH)
        with torch.utils._python_dispatch._disable_current_modes():
            batches, items = super(TracedMarks, self).get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        self.recorder.take_inputs(batches)
        return batches, items

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is logged, evaluated or saved."""

    def _finalize_training(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is loaded, pushed or cleaned up."""


def _take_data_away(model: torch.nn.Module, mode: Dataless) -> None:
    """Every weight and buffer replaced by one without data, those that are shared by one that is shared."""
    replaced: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    with mode:
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in list(table.items()):
                    if tensor is None:
                        continue
                    if id(tensor) not in replaced:
                        empty = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")
                        if isinstance(tensor, torch.nn.Parameter):
                            empty = torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
                        replaced[id(tensor)] = (empty, tensor)
                    table[name] = replaced[id(tensor)][0]


def _places(samples: ProgramSamples, source: Source, lengths: Sequence[int]) -> MicroBatch:
    """Samples for the asked lengths: of each length the one that comes nearest to it, as often as it is asked for."""
    known = dict(zip(samples.order, samples.lengths, strict=True))
    longest = samples.longest[0]
    known.setdefault(longest, max(lengths))
    found = {
        length: longest
        if length >= max(samples.lengths)
        else min(known, key=lambda place: (abs(known[place] - length), place))
        for length in set(lengths)
    }
    return tuple(found[length] for length in lengths)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
