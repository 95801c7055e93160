"""The model, the collator and the arguments of a trial: the model's own initialisation, no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from autofit.catalogue.models import ModelSource
from autofit.recipe import Recipe
from autofit.tasks import Task, task_named
from autofit.trial import varlen_attention
from autofit.trial.collators import PackRows, PadRight
from autofit.trial.protocol import TrialJob


def load_config(source: ModelSource, *, trust_remote_code: bool) -> Any:
    """The model's configuration object. Raises what transformers raises for one it cannot read."""
    if source.path is not None:
        return transformers.AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
    keys = {name: value for name, value in source.config.items() if name != "model_type"}
    return transformers.AutoConfig.for_model(source.config["model_type"], **keys)


def build_model(config: Any, task: Task, device: str, model_kwargs: dict[str, Any], *, trust_remote_code: bool) -> Any:
    """The model on ``device``, initialised as its class does it (``device`` may be ``"meta"``)."""
    keywords = dict(model_kwargs)
    if keywords.get("attn_implementation") == varlen_attention.NAME:
        varlen_attention.register()
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


def build_collator(recipe: Recipe, config: Any) -> Any:
    """The recipe's data collator, padding with the model's own padding token where it names one."""
    if recipe.collator == "DataCollatorWithFlattening":
        return transformers.DataCollatorWithFlattening(**recipe.collator_kwargs)
    collator = {"PadRight": PadRight, "PackRows": PackRows}[recipe.collator]
    pad_token_id = getattr(config, "pad_token_id", None)
    return collator(pad_token_id=pad_token_id if isinstance(pad_token_id, int) else 0, **recipe.collator_kwargs)


def training_arguments(
    job: TrialJob, scratch: Path, micro_steps: int, most_steps: int
) -> transformers.TrainingArguments:
    """The recipe's TrainingArguments, plus only what keeps a trial short, quiet and on its scratch folder.

    A step runs ``micro_steps`` of the accumulation's micro-steps.
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
    short = {"gradient_accumulation_steps": micro_steps}
    return transformers.TrainingArguments(**{**job.recipe.training_arguments, **quiet, **short})
