"""Peaks of torch's own allocator in the beginning of a real training: its samples in their order, the worst last.

``python -m benchmarks.prediction.real_training JOB.json`` trains a StepJob's recipe with the plain Trainer on the first
CUDA device and prints, as one line of JSON, the bytes allocated and reserved at most.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, set_seed

from autofit.job.tasks import task_named
from autofit.study.outcome import Outcome
from autofit.trial.failures import classify_exception
from autofit.trial.protocol import StepJob, read_job
from autofit.worker.batches import GivenMicroBatches, StepBatches
from autofit.worker.build import build_collator, build_trial_model, import_what_it_needs, short_arguments
from autofit.worker.made_up_samples import SamplesByLength


def peaks_of(job: StepJob) -> dict[str, int]:
    """The most that was allocated and reserved (bytes) from the model's building to an evaluation of the longest."""
    import_what_it_needs(job.recipe)
    set_seed(job.seed)
    batches = StepBatches(job.recipe, job.workload, job.seed)
    steps = batches.effective_batches[: len(batches.shapes().in_order)]
    # Gradients are there by its second micro-batch.
    last = [batches.worst[0]] * min(2, len(steps[-1])) + list(steps[-1][2:])
    micro_batches = [list(each) for each in itertools.chain.from_iterable([*steps, last])]
    model = build_trial_model(job)
    # What drawing weights on the device left over is not there where they come from a file.
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    samples = SamplesByLength(task_named(job.workload.task), model.config, job.workload.lengths.longest, job.seed)

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return GivenMicroBatches(lambda: iter(micro_batches), len(micro_batches))

    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        arguments = short_arguments(job.recipe, scratch, seed=job.seed, max_steps=len(steps) + 1)
        collator = build_collator(job.recipe, model.config)
        trainer = InOrder(model=model, args=arguments, train_dataset=samples, data_collator=collator)
        trainer.train()
        longest = job.workload.lengths.longest_samples(job.recipe.micro_batch_size)
        trainer.args.per_device_eval_batch_size = len(longest)
        trainer.evaluate(eval_dataset=torch.utils.data.Subset(samples, longest))
    return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


def main(words: list[str]) -> int:
    """The command line: one job file."""
    job = read_job(Path(words[0]))
    assert isinstance(job, StepJob), "a step's job says all that a training needs to know"
    try:
        answer: dict[str, object] = {"outcome": Outcome.OK.value, "reason": "", **peaks_of(job)}
    except RuntimeError as error:
        outcome, reason = classify_exception(error)
        answer = {"outcome": outcome.value, "reason": reason}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
