"""Facts about the device, the libraries and the model, found without training anything."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import inspect
import os
import re
import shutil
from typing import Any

import torch
import transformers
from transformers.integrations.deepspeed import is_deepspeed_available
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import import_utils

from autofit.device.device import Libraries
from autofit.device.kinds import kind_of
from autofit.device.versions import installed_versions
from autofit.errors import printable
from autofit.job.situation import ModelFacts
from autofit.job.tasks import Task, task_named
from autofit.knobs.attention import FLASH
from autofit.knobs.recipe import adapter_kwargs
from autofit.trial.protocol import ProbeJob, ProbeResult
from autofit.worker.accelerator import accelerator_for
from autofit.worker.build import build_model, load_config, with_adapter

MOST_LINES = 4
"""Of an exception's text: strict configurations name the field in the first line and the reason below it."""


def probe(job: ProbeJob) -> ProbeResult:
    """Answer a probe; what the user must change comes back as the refusal's sentence."""
    try:
        accelerator = accelerator_for(job.device)
        device, lacking = accelerator.facts(), accelerator.lacks()
    except (RuntimeError, ValueError) as error:
        return ProbeResult(refusal=f"--device {job.device}: {str(error).splitlines()[0]}; --device cpu always works.")
    try:
        model = _model_facts(job, task_named(job.workload.task))
    except Exception as error:  # whatever a model's own code raises becomes the user's sentence
        reason = " ".join(line.strip() for line in str(error).splitlines()[:MOST_LINES] if line.strip())
        return ProbeResult(refusal=f"{job.model.name} cannot be built: {type(error).__name__}: {printable(reason)}")
    return ProbeResult(device=device, libraries=libraries(job.device, lacking), model=model)


def _model_facts(job: ProbeJob, task: Task) -> ModelFacts:
    config = load_config(job.model, trust_remote_code=job.trust_remote_code)
    model = build_model(config, task, "meta", {}, trust_remote_code=job.trust_remote_code)
    facts = model_facts(model, job.device, positions=job.model.positions)
    # Asked last: adapters are put into the model.
    return dataclasses.replace(facts, trainable_parameters=_trainable_parameters(job, model))


def model_facts(model: Any, device: str, *, positions: int | None = None) -> ModelFacts:
    """Facts of a model of transformers; ``positions`` are its limit where that is known already."""
    text_config = model.config.get_text_config()
    embeddings = {
        id(weight): number_of(weight)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for weight in module.parameters()
    }
    layers = sum(isinstance(module, GradientCheckpointingLayer) for module in model.modules())
    supports_checkpointing = bool(model.supports_gradient_checkpointing)
    model_type = model.config.model_type
    return ModelFacts(
        model_type=model_type,
        num_parameters=sum(number_of(weight) for weight in model.parameters()),
        embedding_parameters=sum(embeddings.values()),
        vocabulary_size=int(getattr(text_config, "vocab_size", 0) or 0),
        max_positions=positions or _positive(getattr(text_config, "max_position_embeddings", None)),
        supports_checkpointing=supports_checkpointing,
        attention=_attention_of(model, device),
        checkpointable_layers=layers if supports_checkpointing and layers else None,
        checkpointing_options=_takes_checkpointing_options(model),
        keeps_documents_apart=_keeps_documents_apart(model),
        liger_supports=_liger_supports(model_type),
        has_experts=any("num_experts" in name or "num_local_experts" in name for name in text_config.to_dict()),
        counts_items=counts_items(model),
        drops_attention=_drops_attention(model),
        trainable_parameters=sum(number_of(weight) for weight in model.parameters() if weight.requires_grad),
    )


def number_of(weight: torch.Tensor) -> int:
    """Elements of a parameter; of one that ZeRO-3 has cut into parts, those of the whole."""
    return int(getattr(weight, "ds_numel", weight.numel()))


def _takes_checkpointing_options(model: Any) -> bool:
    """False before transformers 5.17, and where a program has put its own function in the place of transformers'."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    return {"every_n_layers", "offload"} <= inspect.signature(enable).parameters.keys()


def _positive(number: Any) -> int | None:
    return number if isinstance(number, int) and number > 0 else None


def _trainable_parameters(job: ProbeJob, model: Any) -> int:
    adapter = adapter_kwargs(job.workload)
    if adapter is not None and import_utils.is_peft_available():
        model = with_adapter(model, adapter)
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def _needs_more_than_varlen(model: Any, device: str) -> bool:
    """True if the model caps its scores or has sinks, or drops scores where the kernel cannot."""
    config = model.config.get_text_config()
    if not kind_of(device).is_host and _drops_attention(model):
        return True
    return bool(getattr(config, "attn_logit_softcapping", None)) or config.model_type in ("gpt_oss",)


def _drops_attention(model: Any) -> bool:
    """True if attention scores are dropped in training."""
    # T5 and its relatives have one figure for all dropout.
    names = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout_rate")
    return any(getattr(model.config.get_text_config(), name, 0) for name in names)


def _attention_of(model: Any, device: str) -> tuple[str, ...]:
    """Attention implementations that the class supports; torch_varlen goes through the same door as the others."""
    supported = ["eager"]
    if model._supports_sdpa:
        supported.append("sdpa")
    if model._supports_flash_attn:
        supported += FLASH
    if model._supports_flex_attn:
        supported.append("flex_attention")
    if model._supports_attention_backend and model._supports_flash_attn and not _needs_more_than_varlen(model, device):
        supported.append("torch_varlen")
    return tuple(supported)


def _keeps_documents_apart(model: Any) -> bool:
    """Positions restart where a document does, and transformers' masks are made from that.

    State-space layers carry state over; the trial itself checks what this does not see.
    """
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    return takes_positions and bool(model._supports_attention_backend) and not getattr(model, "_is_stateful", False)


def counts_items(model: Any) -> bool:
    """True if the head divides its loss by ``num_items_in_batch``, as the Trainer takes for granted of ``**kwargs``.

    Read in its source: it hands its keywords on to the loss function, or it does not. BERT's classifiers,
    T5 and the classifiers that causal models share take the keywords and drop them (transformers 5.23); the
    Trainer then neither divides by their number nor by the accumulation.
    """
    try:
        source = inspect.getsource(inspect.unwrap(type(model).forward))
    except (OSError, TypeError):
        return True
    return "num_items_in_batch" in source or re.search(r"self\.loss_function\([^)]*\*\*", source) is not None


def _liger_supports(model_type: str) -> bool:
    if not import_utils.is_liger_kernel_available():
        return False
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    return model_type in MODEL_TYPE_TO_APPLY_LIGER_FN


def libraries(device: str, lacking: dict[str, str]) -> Libraries:
    """Versions of what is installed, and what cannot be had on a device, which itself is ``lacking`` some features."""
    fields = frozenset(field.name for field in dataclasses.fields(transformers.TrainingArguments))
    packages = {
        "bitsandbytes": (
            import_utils.is_bitsandbytes_available(),
            "bitsandbytes is not installed (pip install bitsandbytes)",
        ),
        "deepspeed": (bool(is_deepspeed_available()), "DeepSpeed is not installed (pip install deepspeed)"),
        "torchao": (import_utils.is_torchao_available(), "torchao is not installed (pip install torchao)"),
        "liger_kernel": (
            import_utils.is_liger_kernel_available(),
            "liger-kernel is not installed (pip install liger-kernel)",
        ),
        "peft": (import_utils.is_peft_available(), "peft is not installed (pip install peft)"),
        "flash_attention_2": (import_utils.is_flash_attn_2_available(), _why_no_flash_attention()),
        "flash_attention_3": (import_utils.is_flash_attn_3_available(), "flash-attn-3 is not installed"),
        "flash_attention_4": (import_utils.is_flash_attn_4_available(), "flash-attn-4 is not installed"),
    }
    others = {
        "torch_varlen": (
            kind_of(device).is_host or importlib.util.find_spec("torch.nn.attention.varlen") is not None,
            f"torch {torch.__version__} has no variable-length attention; 2.11 has",
        ),
        "inductor": _inductor(device),
    }
    not_installed = {feature: reason for feature, (is_there, reason) in packages.items() if not is_there}
    missing = {feature: reason for feature, (is_there, reason) in others.items() if not is_there}
    return Libraries(
        versions=installed_versions(),
        training_argument_fields=fields,
        missing={**not_installed, **missing, **lacking},
        not_installed=frozenset(not_installed.values()),
    )


def _inductor(device: str) -> tuple[bool, str]:
    if kind_of(device).is_host:
        return _can_run(os.environ.get("CXX"), "g++", "clang++"), "torch.compile needs a C++ compiler on a CPU"
    if not import_utils.is_triton_available():
        return False, "torch.compile needs triton on a GPU"
    # Triton compiles what launches its kernels (triton/runtime/build.py).
    return _can_run(os.environ.get("CC"), "gcc", "clang"), "triton needs a C compiler (gcc or clang)"


def _can_run(*programs: str | None) -> bool:
    """True where one of them is on the path."""
    return any(name and shutil.which(name) for name in programs)


def _why_no_flash_attention() -> str:
    try:
        version = importlib.metadata.version("flash-attn")
    except importlib.metadata.PackageNotFoundError:
        return "flash-attn is not installed (pip install flash-attn --no-build-isolation)"
    if torch.version.cuda is None:
        return f"flash-attn {version} needs a torch that is built for CUDA"
    return f"flash-attn {version} is too old; transformers takes 2.3.3 or newer"
