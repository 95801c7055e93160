"""What a worker can say of the device, the libraries and the model without training anything."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

import torch
import transformers
from transformers.utils import import_utils

from autofit.device import Libraries
from autofit.errors import UserError
from autofit.situation import ModelFacts
from autofit.tasks import Task, task_named, task_of
from autofit.trial.accelerator import accelerator_for
from autofit.trial.build import build_model, load_config
from autofit.trial.protocol import ProbeJob, ProbeResult
from autofit.versions import installed_versions


def probe(job: ProbeJob) -> ProbeResult:
    """Answer a probe; what the user must change comes back as the refusal's sentence."""
    try:
        device = accelerator_for(job.device).facts()
    except (RuntimeError, ValueError) as error:
        return ProbeResult(refusal=f"--device {job.device}: {str(error).splitlines()[0]}; --device cpu always works.")
    try:
        task = task_named(job.task) if job.task else task_of(job.model.config, job.model.head)
    except UserError as error:
        return ProbeResult(refusal=str(error))
    try:
        model = _model_facts(job, task)
    except Exception as error:  # whatever a model's own code raises becomes the user's sentence
        first_line = (str(error).splitlines() or [""])[0]
        return ProbeResult(refusal=f"{job.model.name} cannot be built: {type(error).__name__}: {first_line}")
    return ProbeResult(device=device, libraries=_libraries(), model=model, task=task.name)


def _model_facts(job: ProbeJob, task: Task) -> ModelFacts:
    config = load_config(job.model, trust_remote_code=job.trust_remote_code)
    model = build_model(config, task, "meta", {}, trust_remote_code=job.trust_remote_code)
    text_config = config.get_text_config()
    embeddings = {
        id(weight): weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for weight in module.parameters()
    }
    return ModelFacts(
        model_type=config.model_type,
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        embedding_parameters=sum(embeddings.values()),
        vocabulary_size=int(text_config.vocab_size),
        max_positions=job.model.positions or getattr(text_config, "max_position_embeddings", None),
        supports_checkpointing=bool(model.supports_gradient_checkpointing),
        attention=_attention_of(model),
    )


def _attention_of(model: Any) -> tuple[str, ...]:
    supported = ["eager"]
    if model._supports_sdpa:
        supported.append("sdpa")
    if model._supports_flash_attn:
        supported.append("flash_attention_2")
    return tuple(supported)


def _libraries() -> Libraries:
    missing = {}
    if not import_utils.is_bitsandbytes_available():
        missing["bitsandbytes"] = "bitsandbytes is not installed (pip install bitsandbytes)"
    if not import_utils.is_flash_attn_2_available():
        missing["flash_attention_2"] = _why_no_flash_attention()
    fields = frozenset(field.name for field in dataclasses.fields(transformers.TrainingArguments))
    return Libraries(versions=installed_versions(), training_argument_fields=fields, missing=missing)


def _why_no_flash_attention() -> str:
    try:
        version = importlib.metadata.version("flash-attn")
    except importlib.metadata.PackageNotFoundError:
        return "flash-attn is not installed (pip install 'autofit-train[flash]')"
    if torch.version.cuda is None:
        return f"flash-attn {version} needs a torch that is built for CUDA"
    return f"flash-attn {version} is too old; transformers takes 2.3.3 or newer"
