"""The model, the collator and the arguments of a trial: the model's own initialisation, no download."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
import transformers

from autofit.device.kinds import kind_of
from autofit.job.models import ModelSource
from autofit.job.tasks import Task, task_named
from autofit.knobs import knob
from autofit.knobs.parallelism import zero_stage
from autofit.knobs.recipe import Recipe
from autofit.predict.trace_request import TraceRequest
from autofit.runtime import varlen_attention
from autofit.runtime.collators import make_collator
from autofit.trial.protocol import StepJob, TrialJob
from autofit.worker.host_weights import made_up_weights


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


def build_trial_model(job: TrialJob | StepJob | TraceRequest, config: Any = None) -> Any:
    """The model that a job's recipe asks for, with its adapters where it has some; ``config`` may be a changed one."""
    config = config or config_for(job)
    task, recipe = task_named(job.workload.task), job.recipe
    if recipe.quantization is None and isinstance(job, StepJob):
        # The same weights whatever they are stored in: drawn in float32, then rounded.
        drawn = {**recipe.model_kwargs, "dtype": "float32"}
        model = build_model(config, task, job.device, drawn, trust_remote_code=job.trust_remote_code)
        for weight in model.parameters():
            weight.data = weight.data.to(getattr(torch, recipe.model_kwargs["dtype"]))
    elif recipe.quantization is not None:
        model = _build_quantized(config, task, job)
    elif _begins_on_host(recipe) and not kind_of(job.device).is_host:
        # No device has to hold all of it: FSDP2 moves a layer at a time there, and keeps its part. DeepSpeed moves all.
        model = _loaded(config, task, job)
    else:
        model = build_model(config, task, job.device, recipe.model_kwargs, trust_remote_code=job.trust_remote_code)
    return finished(model, recipe)


def _begins_on_host(recipe: Recipe) -> bool:
    """True where a training loads its model on the host. ZeRO-3 cuts each layer on the device as soon as it is made."""
    stage = zero_stage(recipe.training_arguments)
    if stage is not None:
        return stage < 3
    return recipe.processes > 1 and bool(recipe.training_arguments.get("fsdp"))


def config_for(job: TrialJob | StepJob | TraceRequest) -> Any:
    """The model's configuration with what the task needs in it."""
    config = load_config(job.model, trust_remote_code=job.trust_remote_code)
    if job.workload.task == "sequence-classification" and getattr(config, "pad_token_id", None) is None:
        # A causal model reads its class off the last token, and has to know which tokens are padding.
        config.pad_token_id = 0
    if job.workload.task == "seq2seq-lm" and getattr(config, "decoder_start_token_id", None) is None:
        # T5 and its kin begin an answer with the padding token, which is in their hub configuration and not its class.
        config.decoder_start_token_id = getattr(config, "pad_token_id", None) or 0
    return config


def finished(model: Any, recipe: Recipe) -> Any:
    """The built model as the Trainer gets it: what it does with item counts, and its adapters."""
    if not recipe.counts_items:
        model.accepts_loss_kwargs = False
    return model if recipe.adapter is None else with_adapter(model, recipe.adapter)


def import_what_it_needs(recipe: Recipe) -> None:
    """Import now what building and the optimizer would import later, so that it is not counted as memory."""
    optimizer = str(recipe.training_arguments.get("optim"))
    packages = {each.package for each in knob("optimizer").choices if each.value == optimizer}
    if recipe.adapter is not None:
        packages.add("peft")
    if recipe.quantization is not None:
        packages.add("bitsandbytes")
    if recipe.training_arguments.get("deepspeed"):
        packages.add("deepspeed")
    for package in packages - {""}:
        importlib.import_module(package)


def with_adapter(model: Any, adapter: dict[str, Any]) -> Any:
    """The model frozen, with LoRA's weights beside its own; all that is trained is in float32.

    PEFT sees to that for its adapters, and not for a new head, which is copied in the frozen dtype.
    """
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(**adapter))
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return model


def _build_quantized(config: Any, task: Task, job: TrialJob | StepJob | TraceRequest) -> Any:
    """The model in 4 bits, through the quantiser's own loading path."""
    quantization = dict(job.recipe.quantization or {})
    quantization["bnb_4bit_compute_dtype"] = getattr(torch, quantization["bnb_4bit_compute_dtype"])
    return _loaded(
        config,
        task,
        job,
        quantization_config=transformers.BitsAndBytesConfig(**quantization),
        device_map={"": job.device},
    )


def _loaded(config: Any, task: Task, job: TrialJob | StepJob | TraceRequest, **keywords: Any) -> Any:
    """The model as it is loaded from a file, with weights that were made up."""
    plain = build_model(config, task, "meta", job.recipe.model_kwargs, trust_remote_code=job.trust_remote_code)
    return type(plain).from_pretrained(
        None,
        config=config,
        state_dict=made_up_weights(plain, float(getattr(config, "initializer_range", 0.02))),
        **{**job.recipe.model_kwargs, "dtype": getattr(torch, job.recipe.model_kwargs["dtype"])},
        **keywords,
    )


def build_collator(recipe: Recipe, config: Any) -> Any:
    """The recipe's data collator, padding with the model's own padding token where it names one."""
    pad_token_id = getattr(config, "pad_token_id", None)
    return make_collator(recipe.collator, recipe.collator_kwargs, pad_token_id if isinstance(pad_token_id, int) else 0)


def training_arguments(
    job: TrialJob, scratch: Path, micro_steps: int, most_steps: int
) -> transformers.TrainingArguments:
    """The trial's TrainingArguments; a step runs ``micro_steps`` of the accumulation's micro-steps."""
    return short_arguments(
        job.recipe,
        str(scratch),
        seed=job.plan.seed,
        max_steps=most_steps,
        gradient_accumulation_steps=micro_steps,
        per_device_eval_batch_size=job.recipe.micro_batch_size,
    )


def short_arguments(recipe: Recipe, scratch: str, **changes: Any) -> transformers.TrainingArguments:
    """The recipe's TrainingArguments, plus only what keeps a run short, quiet and on its scratch folder."""
    quiet = {
        "output_dir": scratch,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return transformers.TrainingArguments(**{**recipe.training_arguments, **quiet, **changes})
