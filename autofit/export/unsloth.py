"""``unsloth``: a file for ``unsloth train --config`` (Unsloth 2026.10, ``unsloth_cli/config.py``).

Its settings are few: the optimizer, the precision, the attention and the kernels are Unsloth's own.
"""

from __future__ import annotations

from typing import Any

from autofit.export.arguments import checkpointing_of, known_and_others
from autofit.export.exported import Exported, as_yaml, command, header, model_name, of_causal_model, processes_left_out
from autofit.export.layouts import is_flattened, is_packed, padded_length
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result

LINEAR = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
"""The linear layers of most language models; Unsloth's own default."""
OPTIMIZER = "adamw_8bit"
_EXPRESSED = ("per_device_train_batch_size", "gradient_accumulation_steps", "optim", "bf16", "fp16")
"""Arguments that have a key, or are said to be left out by what Unsloth does instead."""


def serialize(result: Result) -> Exported:
    """The file. Raises UserError where nothing was measured, or no causal language model."""
    _, recommendation = of_causal_model(result, "unsloth")
    arguments = recommendation.training_arguments
    checkpointing = checkpointing_of(arguments)
    adapter = recommendation.adapter
    document: dict[str, Any] = {
        "model": model_name(result),
        "training": {
            "training_type": "full" if adapter is None else "lora",
            "load_in_4bit": recommendation.quantization is not None,
            "max_seq_length": result.record.workload.sequence_length,
            "batch_size": arguments["per_device_train_batch_size"],
            "gradient_accumulation_steps": arguments["gradient_accumulation_steps"],
            "packing": False,
            "gradient_checkpointing": "true" if checkpointing.is_on else "none",
        },
    }
    left_out = ["attention, precision and kernels, which Unsloth chooses and replaces by its own"]
    if arguments.get("optim", OPTIMIZER) != OPTIMIZER:
        left_out.append(f"optim={arguments['optim']}: Unsloth's command trains with {OPTIMIZER}")
    if adapter is not None:
        targets = adapter["target_modules"]
        document["lora"] = {
            "lora_r": adapter["r"],
            "lora_alpha": adapter["lora_alpha"],
            "lora_dropout": adapter["lora_dropout"],
            "target_modules": LINEAR if targets == "all-linear" else ",".join(targets),
        }
        if targets == "all-linear":
            left_out.append(f"adapters of linear layers with names other than {LINEAR}")
    left_out += _others(result, recommendation)
    left_out += processes_left_out(result)
    use = "Add data, num_epochs and learning_rate, then:"
    lines = header(result, tuple(left_out), use, command(result, "unsloth train --config FILE"))
    return Exported(text=as_yaml(document, lines), left_out=tuple(left_out))


def _others(result: Result, recommendation: Recommendation) -> list[str]:
    """Settings for which there is no key."""
    arguments = recommendation.training_arguments
    left_out = ["trust_remote_code=True"] if result.record.trust_remote_code else []
    left_out += [*checkpointing_of(arguments).others, *known_and_others(arguments, _EXPRESSED)[1]]
    if is_packed(recommendation) or is_flattened(recommendation):
        left_out.append("rows that hold several samples, which Unsloth counts as one")
    if padded_length(recommendation) is not None:
        left_out.append("rows that are all padded to the longest sample")
    return left_out
