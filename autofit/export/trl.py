"""``trl``: a file for ``trl sft --config``.

Written out are TRL's own defaults that differ from TrainingArguments' (trl 1.16, ``trainer/base_config.py``):
activation checkpointing and bf16 are on. Its loss cannot be had otherwise: ``SFTTrainer`` always computes it in chunks
of the vocabulary, and reads metrics on the host in every micro-step.
"""

from __future__ import annotations

from typing import Any

from autofit.device.kinds import kind_of
from autofit.export.exported import Exported, as_yaml, header, model_name, of_causal_model, processes_left_out
from autofit.export.layouts import is_flattened, is_packed, padded_length
from autofit.knobs.attention import TORCH_VARLEN
from autofit.knobs.parallelism import zero_stage
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result


def serialize(result: Result) -> Exported:
    """The file. Raises UserError where nothing was measured, or no causal language model."""
    document, left_out = settings(result)
    use = f"{limit_of_samples(result, document)}Train with:"
    if kind_of(result.situation.device).is_host:
        left_out += ("the number of threads: accelerate launch takes one where OMP_NUM_THREADS is not set",)
        left_out += processes_left_out(result)  # without GPUs it starts one
    lines = header(result, left_out, use, "trl sft --config FILE --dataset_name DATA --output_dir output")
    return Exported(text=as_yaml(document, lines), left_out=left_out)


def limit_of_samples(result: Result, document: dict[str, Any]) -> str:
    """A sentence on samples that have to be short enough, where TRL cuts none; else empty."""
    if not document["padding_free"]:
        return ""
    return f"Samples must have at most {result.record.workload.sequence_length} tokens: TRL cuts none of these. "


def settings(result: Result) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The keys of ``trl sft``, and what they leave out. Raises UserError as ``serialize``."""
    _, recommendation = of_causal_model(result, "trl sft")
    model, left_out = _model(recommendation)
    rows, more_left_out = _rows(recommendation)
    arguments = dict(recommendation.training_arguments)
    length = result.record.workload.sequence_length
    document: dict[str, Any] = {
        "model_name_or_path": model_name(result),
        **({"trust_remote_code": True} if result.record.trust_remote_code else {}),
        **model,
        **_adapter(recommendation),
        **arguments,
        "max_length": length,
        **rows,
        **_launch(result),
    }
    for name in ("bf16", "fp16", _checkpointing(result)):
        document.setdefault(name, False)
    if recommendation.environment:
        document["env"] = dict(recommendation.environment)
    left_out += (*more_left_out, "the loss, which TRL computes in chunks, reading metrics in every micro-step")
    if recommendation.adapter is not None and zero_stage(arguments) == 3:
        left_out += ("adapters in float32, which TRL keeps in the dtype of the others under ZeRO-3",)
        if arguments.get(_checkpointing(result)):
            left_out += ("use_reentrant=False, which TRL turns into True under ZeRO-3",)
    if recommendation.quantization is not None:
        left_out += ("adapters in float32, which TRL casts to bfloat16",)
        computed, stored = recommendation.quantization["bnb_4bit_compute_dtype"], recommendation.model_kwargs["dtype"]
        if computed != stored:
            left_out += (f"4-bit weights computed with in {computed}: TRL takes the dtype of the others, {stored}",)
    return document, left_out


def _model(recommendation: Recommendation) -> tuple[dict[str, Any], tuple[str, ...]]:
    attention = recommendation.model_kwargs.get("attn_implementation")
    if attention == TORCH_VARLEN:
        dtype = {name: value for name, value in recommendation.model_kwargs.items() if name != "attn_implementation"}
        return dtype, (f"attn_implementation={TORCH_VARLEN}, which is autofit's own",)
    return dict(recommendation.model_kwargs), ()


def _adapter(recommendation: Recommendation) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if recommendation.adapter is not None:
        targets = recommendation.adapter["target_modules"]
        document = {
            "use_peft": True,
            "lora_r": recommendation.adapter["r"],
            "lora_alpha": recommendation.adapter["lora_alpha"],
            "lora_dropout": recommendation.adapter["lora_dropout"],
            "lora_target_modules": _targets(targets),
        }
    if recommendation.quantization is not None:
        document |= {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": recommendation.quantization["bnb_4bit_quant_type"],
            "use_bnb_nested_quant": recommendation.quantization["bnb_4bit_use_double_quant"],
        }
    return document


def _targets(targets: str | list[str]) -> list[str]:
    """Names of modules; a single one becomes a string on TRL's way, which PEFT takes for a pattern of whole names."""
    if isinstance(targets, str):
        return [targets]
    return targets if len(targets) > 1 else [rf".*\.{name}" for name in targets]


def _launch(result: Result) -> dict[str, Any]:
    """Keys that go to accelerate launch: several GPUs multiply the batch, or share the model, otherwise."""
    processes, device = result.record.workload.processes, result.situation.device
    if processes > 1 or kind_of(device).is_host:
        return {"num_processes": processes}
    return {"num_processes": 1, "gpu_ids": str(device.index)}


def _checkpointing(result: Result) -> str:
    """Name of the argument in the installed transformers."""
    fields = result.situation.libraries.training_argument_fields
    return "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"


def _rows(recommendation: Recommendation) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Rows that samples become. TRL packs into rows of ``max_length`` and counts those: another effective batch."""
    document: dict[str, Any] = {"packing": False, "padding_free": False}
    length = padded_length(recommendation)
    if length is not None:
        return {**document, "pad_to_multiple_of": length}, ()
    if is_packed(recommendation):
        return document, ("packed rows: TRL packs otherwise, and counts rows as samples",)
    if is_flattened(recommendation):
        if recommendation.model_kwargs.get("attn_implementation") not in ("flash_attention_2", "flash_attention_3"):
            return document, ("flattened micro-batches, for which TRL wants FlashAttention 2 or 3",)
        return {**document, "padding_free": True, "max_length": None}, ()
    return document, ()
