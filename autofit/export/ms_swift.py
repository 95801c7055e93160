"""``ms-swift``: a file for ``swift sft FILE`` (ms-swift 4.6, ``swift/arguments``).

Written out are its own defaults that differ from TrainingArguments': checkpointing is on, a loader has a worker, and
without a word on precision float32 weights are trained in fp16.
"""

from __future__ import annotations

from typing import Any

from autofit.export.arguments import checkpointing_of, known_and_others
from autofit.export.exported import Exported, as_yaml, command, header, model_name, of_causal_model, processes_left_out
from autofit.export.layouts import is_flattened, is_packed, padded_length
from autofit.knobs.attention import TORCH_VARLEN
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result

_KNOWN = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "per_device_eval_batch_size",
    "logging_nan_inf_filter",
    "optim",
    "tf32",
    "torch_compile",
    "use_cpu",
    "use_liger_kernel",
    "deepspeed",
)
"""TrainingArguments that it takes by their own names, in the transformers that it asks for (before 5.20)."""
_WRITTEN = {"bf16": False, "fp16": False, "dataloader_num_workers": 0}
"""Those that are written out where nothing is recommended, as its own defaults are others."""
_FLASH = ("flash_attention_2", "flash_attention_3")


def serialize(result: Result) -> Exported:
    """The file. Raises UserError where nothing was measured, or no causal language model."""
    _, recommendation = of_causal_model(result, "ms-swift")
    arguments = recommendation.training_arguments
    checkpointing = checkpointing_of(arguments)
    taken, others = known_and_others(arguments, (*_KNOWN, *_WRITTEN))
    left_out = [*checkpointing.others, *others]
    left_out += processes_left_out(result)
    document: dict[str, Any] = {
        "model": model_name(result),
        "use_hf": True,
        **_adapter(recommendation),
        "torch_dtype": recommendation.model_kwargs.get("dtype", "float32"),
        "max_length": result.record.workload.sequence_length,
        "packing": False,
        "gradient_checkpointing": checkpointing.is_on,
        **({"gradient_checkpointing_kwargs": {"use_reentrant": False}} if checkpointing.is_on else {}),
        **_WRITTEN,
        **taken,
    }
    attention = recommendation.model_kwargs.get("attn_implementation")
    if attention == TORCH_VARLEN:
        left_out.append(f"attn_implementation={TORCH_VARLEN}, which is autofit's own")
    elif attention is not None:
        document["attn_impl"] = attention
    document["padding_free"] = is_flattened(recommendation) and attention in _FLASH
    if is_packed(recommendation):
        left_out.append("rows that hold several samples, which ms-swift counts as one")
    if is_flattened(recommendation) and not document["padding_free"]:
        left_out.append("flattened micro-batches, for which ms-swift wants FlashAttention")
    if padded_length(recommendation) is not None:
        left_out.append("rows that are all padded to the longest sample")
    use = "Add dataset and learning_rate, and model_type and template where ms-swift cannot tell them, then:"
    lines = header(result, tuple(left_out), use, command(result, "swift sft FILE"))
    return Exported(text=as_yaml(document, lines), left_out=tuple(left_out))


def _adapter(recommendation: Recommendation) -> dict[str, Any]:
    if recommendation.adapter is None:
        return {"tuner_type": "full"}
    targets = recommendation.adapter["target_modules"]
    document = {
        "tuner_type": "lora",
        "lora_rank": recommendation.adapter["r"],
        "lora_alpha": recommendation.adapter["lora_alpha"],
        "lora_dropout": recommendation.adapter["lora_dropout"],
        "target_modules": [targets] if isinstance(targets, str) else list(targets),
        "lora_dtype": "float32",
    }
    if recommendation.quantization is not None:
        document |= {
            "quant_method": "bnb",
            "quant_bits": 4,
            "bnb_4bit_quant_type": recommendation.quantization["bnb_4bit_quant_type"],
            "bnb_4bit_use_double_quant": recommendation.quantization["bnb_4bit_use_double_quant"],
            "bnb_4bit_compute_dtype": recommendation.quantization["bnb_4bit_compute_dtype"],
        }
    return document
