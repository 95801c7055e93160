"""``axolotl``: a file for ``axolotl train``.

Axolotl drops keys that it does not know without a word, and switches kernels of its own on for LoRA: both are written
out here (axolotl 0.21, ``utils/schemas``).
"""

from __future__ import annotations

from typing import Any

from autofit.device.kinds import kind_of
from autofit.export.exported import Exported, as_yaml, command, header, model_name, of_causal_model, processes_left_out
from autofit.export.layouts import is_flattened, is_packed, padded_length
from autofit.knobs.allocator import VARIABLE as ALLOCATOR_VARIABLE
from autofit.knobs.attention import TORCH_VARLEN
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result

_NAMES = {
    "per_device_train_batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "per_device_eval_batch_size": "eval_batch_size",
    "optim": "optimizer",
    "bf16": "bf16",
    "fp16": "fp16",
    "tf32": "tf32",
    "torch_compile": "torch_compile",
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
    "gradient_checkpointing": "gradient_checkpointing",
    "gradient_checkpointing_kwargs": "gradient_checkpointing_kwargs",
    "logging_nan_inf_filter": "logging_nan_inf_filter",
    "deepspeed": "deepspeed",
}
"""TrainingArguments and its own keys."""
_LIGER = {
    "plugins": ["axolotl.integrations.liger.LigerPlugin"],
    "liger_rope": True,
    "liger_rms_norm": True,
    "liger_glu_activation": True,
    "liger_fused_linear_cross_entropy": True,
}
_OWN_LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


def serialize(result: Result) -> Exported:
    """The file. Raises UserError where nothing was measured, or no causal language model."""
    _, recommendation = of_causal_model(result, "axolotl")
    arguments = dict(recommendation.training_arguments)
    document: dict[str, Any] = {
        "base_model": model_name(result),
        **({"trust_remote_code": True} if result.record.trust_remote_code else {}),
        "sequence_len": result.record.workload.sequence_length,
    }
    left_out = []
    arguments.pop("use_cpu", None)  # accelerate finds that there is no GPU
    has_liger = arguments.pop("use_liger_kernel", False)
    if arguments.get("train_sampling_strategy") == "group_by_length":
        del arguments["train_sampling_strategy"]
        document["group_by_length"] = True
    for name, value in arguments.items():
        if name in _NAMES:
            document[_NAMES[name]] = value
        else:
            left_out.append(f"{name}={value}")
    for name in ("bf16", "fp16", "tf32", "gradient_checkpointing"):
        document.setdefault(name, False)
    document |= _LIGER if has_liger else {}
    document |= _adapter(recommendation)
    attention = recommendation.model_kwargs.get("attn_implementation")
    if attention == TORCH_VARLEN:
        left_out.append(f"attn_implementation={TORCH_VARLEN}, which is autofit's own")
    elif attention is not None:
        document["attn_implementation"] = attention
    left_out += _dtypes(recommendation, document)
    left_out += processes_left_out(result)
    document["sample_packing"] = False
    document["dataloader_num_workers"] = 0  # it takes as many as there are GPUs
    document["pad_to_sequence_len"] = padded_length(recommendation) is not None
    if document["pad_to_sequence_len"]:
        document["pad_to_multiple_of"] = 1  # it rounds up to 64
    if is_packed(recommendation) or is_flattened(recommendation):
        left_out.append("rows that hold several samples, which Axolotl counts as one")
    # It switches expandable segments on where the variable is not set.
    allocator = {}
    if not kind_of(result.situation.device).is_host and ALLOCATOR_VARIABLE not in recommendation.environment:
        allocator["PYTORCH_ALLOC_CONF"] = "expandable_segments:False"
    shell = command(result, "axolotl train FILE --launcher python", **allocator)
    lines = header(result, tuple(left_out), "Add datasets, learning_rate and output_dir, then:", shell)
    return Exported(text=as_yaml(document, lines), left_out=tuple(left_out))


def _dtypes(recommendation: Recommendation, document: dict[str, Any]) -> list[str]:
    """Put the weights' dtype into the document; what of it Axolotl does otherwise.

    It loads weights in 16 bits wherever bf16 or fp16 is on, and autocasts them (``utils/config``, ``core/builders``).
    """
    dtype = recommendation.model_kwargs.get("dtype")
    autocasts = document["bf16"] or document["fp16"]
    if dtype == "float32" and document["fp16"]:
        return ["weights in float32 under fp16, which Axolotl loads in 16 bits: its gradient scaler then refuses them"]
    if dtype == "float32" and autocasts:
        return ["weights in float32 under autocast, which Axolotl loads in 16 bits"]
    if dtype == "bfloat16" and not autocasts:
        document["bfloat16"] = True
        return ["no autocast: Axolotl trains weights in bfloat16 under it, with norms, embeddings and head in float32"]
    return []


def _adapter(recommendation: Recommendation) -> dict[str, Any]:
    if recommendation.adapter is None:
        return {}
    targets = recommendation.adapter["target_modules"]
    return {
        "adapter": "lora" if recommendation.quantization is None else "qlora",
        **({} if recommendation.quantization is None else {"load_in_4bit": True}),
        "lora_r": recommendation.adapter["r"],
        "lora_alpha": recommendation.adapter["lora_alpha"],
        "lora_dropout": recommendation.adapter["lora_dropout"],
        **({"lora_target_linear": True} if targets == "all-linear" else {"lora_target_modules": targets}),
        **dict.fromkeys(_OWN_LORA_KERNELS, False),
    }
