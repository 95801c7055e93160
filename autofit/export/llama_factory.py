"""``llama-factory``: a file for ``llamafactory-cli train`` (LLaMA-Factory 0.9.5, ``hparams``)."""

from __future__ import annotations

from typing import Any

from autofit.device.kinds import kind_of
from autofit.export.arguments import checkpointing_of, known_and_others
from autofit.export.exported import Exported, as_yaml, command, header, model_name, of_causal_model, processes_left_out
from autofit.export.layouts import is_flattened, is_packed, padded_length
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result

_ATTENTION = {"eager": "disabled", "sdpa": "sdpa", "flash_attention_2": "fa2"}
"""Others are refused as the model is loaded (``model_utils/attention.py``)."""
_KNOWN = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "per_device_eval_batch_size",
    "logging_nan_inf_filter",
    "optim",
    "bf16",
    "fp16",
    "tf32",
    "torch_compile",
    "use_cpu",
    "deepspeed",
)
"""TrainingArguments that it takes by their own names, in the transformers that it asks for (5.6)."""


def serialize(result: Result) -> Exported:
    """The file. Raises UserError where nothing was measured, or no causal language model."""
    _, recommendation = of_causal_model(result, "llama-factory")
    arguments = recommendation.training_arguments
    checkpointing = checkpointing_of(arguments)
    taken, others = known_and_others(arguments, (*_KNOWN, "use_liger_kernel"))
    left_out = [*checkpointing.others, *others]
    left_out += processes_left_out(result)
    document: dict[str, Any] = {
        "model_name_or_path": model_name(result),
        **({"trust_remote_code": True} if result.record.trust_remote_code else {}),
        "stage": "sft",
        "do_train": True,
        **_adapter(recommendation),
        "cutoff_len": result.record.workload.sequence_length,
        "disable_gradient_checkpointing": not checkpointing.is_on,
        "use_reentrant_gc": checkpointing.is_on and checkpointing.use_reentrant,
        "enable_liger_kernel": bool(taken.pop("use_liger_kernel", False)),
        "packing": False,
        **taken,
    }
    left_out += _of_model(recommendation, document, is_host=kind_of(result.situation.device).is_host)
    if not result.record.workload.lengths.all_equal:
        left_out.append("rows padded to the longest of their batch, which LLaMA-Factory rounds up to 8 tokens")
    if is_packed(recommendation) or is_flattened(recommendation):
        left_out.append("rows that hold several samples, which LLaMA-Factory counts as one")
    if padded_length(recommendation) is not None:
        left_out.append("rows that are all padded to the longest sample")
    use = "Add dataset, template, learning_rate and output_dir; of plain text the stage is pt, not sft. Then:"
    lines = header(result, tuple(left_out), use, command(result, "llamafactory-cli train FILE"))
    return Exported(text=as_yaml(document, lines), left_out=tuple(left_out))


def _of_model(recommendation: Recommendation, document: dict[str, Any], *, is_host: bool) -> list[str]:
    """Put attention and dtype into the document; what of them it cannot express."""
    left_out = []
    attention = recommendation.model_kwargs.get("attn_implementation")
    if attention in _ATTENTION:
        document["flash_attn"] = _ATTENTION[attention]
    elif attention is not None:
        left_out.append(f"attn_implementation={attention}")
    dtype = recommendation.model_kwargs.get("dtype")
    if recommendation.adapter is not None:
        left_out.append(f"frozen weights in {dtype}, which LLaMA-Factory keeps as the checkpoint has them")
    elif dtype == "bfloat16" and is_host:
        left_out.append("weights in bfloat16, which LLaMA-Factory trains on GPUs alone")
    elif dtype == "bfloat16":
        document["pure_bf16"] = True
        left_out.append("weights in bfloat16 where the checkpoint has them otherwise")
    return left_out


def _adapter(recommendation: Recommendation) -> dict[str, Any]:
    if recommendation.adapter is None:
        return {"finetuning_type": "full"}
    targets = recommendation.adapter["target_modules"]
    return {
        "finetuning_type": "lora",
        "lora_rank": recommendation.adapter["r"],
        "lora_alpha": recommendation.adapter["lora_alpha"],
        "lora_dropout": recommendation.adapter["lora_dropout"],
        "lora_target": "all" if targets == "all-linear" else ",".join(targets),
        **(
            {}
            if recommendation.quantization is None
            else {"quantization_method": "bnb", "quantization_bit": 4, "double_quantization": True}
        ),
    }
