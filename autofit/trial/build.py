"""The model and the data of a trial: the model's own initialisation, random token ids, no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import Dataset

from autofit.catalogue.models import ModelSource
from autofit.tasks import Task, task_named
from autofit.trial.protocol import TrialJob
from autofit.workload import Workload

# Rows are drawn once and repeated: values matter (zeros multiply faster, 13 % seen), their order does not.
DISTINCT_ROWS = 64


def load_config(source: ModelSource, *, trust_remote_code: bool) -> Any:
    """The model's configuration object. Raises what transformers raises for one it cannot read."""
    if source.path is not None:
        return transformers.AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
    keys = {name: value for name, value in source.config.items() if name != "model_type"}
    return transformers.AutoConfig.for_model(source.config["model_type"], **keys)


def build_model(config: Any, task: Task, device: str, model_kwargs: dict[str, Any], *, trust_remote_code: bool) -> Any:
    """The model on ``device``, initialised as its class does it (``device`` may be ``"meta"``)."""
    keywords = dict(model_kwargs)
    if "dtype" in keywords:
        keywords["dtype"] = getattr(torch, keywords["dtype"])
    if trust_remote_code:
        keywords["trust_remote_code"] = True
    with torch.device(device):
        return getattr(transformers, task.auto_class).from_config(config, **keywords)


def build_trial_model(job: TrialJob) -> Any:
    """The model that a job's recipe asks for."""
    return build_model(
        load_config(job.model, trust_remote_code=job.trust_remote_code),
        task_named(job.workload.task),
        job.device,
        job.recipe.model_kwargs,
        trust_remote_code=job.trust_remote_code,
    )


class RandomTokens(Dataset[dict[str, torch.Tensor]]):  # type: ignore[misc]
    """``rows`` samples of ``workload.sequence_length`` token ids drawn over the vocabulary.

    Each has ``input_ids``, ``attention_mask`` (all ones: what a tokenizer gives) and ``labels``, int64,
    of shape (sequence_length,). For a task that masks, all but the masked share of labels is -100.
    """

    def __init__(self, workload: Workload, vocabulary_size: int, rows: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (min(rows, DISTINCT_ROWS), workload.sequence_length)
        self._rows = rows
        self._input_ids = torch.randint(0, vocabulary_size, shape, generator=generator)
        self._attention_mask = torch.ones(workload.sequence_length, dtype=torch.int64)
        self._labels = self._input_ids
        masked_share = task_named(workload.task).masked_share
        if masked_share is not None:
            hidden = torch.rand(shape, generator=generator) >= masked_share
            hidden[:, 1] = False
            self._labels = self._input_ids.masked_fill(hidden, -100)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = index % len(self._input_ids)
        return {
            "input_ids": self._input_ids[row],
            "attention_mask": self._attention_mask,
            "labels": self._labels[row],
        }

    def bytes_per_sample(self) -> int:
        """What one collated sample takes on the device."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self[0].values())


def training_arguments(job: TrialJob, scratch: Path, most_steps: int) -> transformers.TrainingArguments:
    """The recipe's TrainingArguments, plus only what keeps a trial short, quiet and on its scratch folder.

    A step runs ``micro_steps_run(job)`` of the accumulation's micro-steps.
    """
    quiet = {
        "output_dir": str(scratch),
        "max_steps": most_steps,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": job.plan.seed,
        "per_device_eval_batch_size": job.recipe.micro_batch_size,
    }
    short = {"gradient_accumulation_steps": micro_steps_run(job)}
    return transformers.TrainingArguments(**{**job.recipe.training_arguments, **quiet, **short})


def micro_steps_run(job: TrialJob) -> int:
    """How many micro-steps an optimizer step of this job runs: all of them, or at most three."""
    accumulation = job.recipe.accumulation_steps
    return accumulation if job.plan.whole else min(accumulation, 3)
