"""``trl-python``: SFTConfig, the model and its adapters as Python, with what ``trl`` writes out for TRL."""

from __future__ import annotations

from typing import Any

from autofit.export import trl
from autofit.export.exported import Exported, header, model_name, of_causal_model
from autofit.export.template import CHECK_EFFECTIVE_BATCH, filled, in_docstring, literal
from autofit.export.training_arguments import launch_command
from autofit.knobs.attention import TORCH_VARLEN
from autofit.study.result import Result

_TEMPLATE = '''\
"""@HEADER@
"""

import os

os.environ.update(@ENVIRONMENT@)  # read when torch is imported, or when processes join

@IMPORTS@

MODEL = @MODEL@
MODEL_KWARGS = @MODEL_KWARGS@
EFFECTIVE_BATCH = @EFFECTIVE_BATCH@  # samples per optimizer step, over all devices
@METHOD_KWARGS@SFT_ARGUMENTS = @SFT_ARGUMENTS@


def sft_config(output_dir: str, **others) -> SFTConfig:
    """The measured settings, and what you add to them; stops where they would change the effective batch."""
    config = SFTConfig(output_dir=output_dir, **{**SFT_ARGUMENTS, **others})
    check_effective_batch(config)
    return config


@CHECK_EFFECTIVE_BATCH@

def load_model(name: str = MODEL):
    """The model with its weights, in the dtype and with the attention that were measured."""
    return AutoModelForCausalLM.from_pretrained(name, **MODEL_KWARGS@MODEL_OTHERS@)


def trainer(train_dataset, config: SFTConfig, model=None, **others) -> SFTTrainer:
    """TRL's trainer with all of it; of MODEL, where no other model is given."""
    model = load_model() if model is None else model
    return SFTTrainer(model=model, args=config, train_dataset=train_dataset@ADAPTER@, **others)
'''
_OF_MODEL = ("model_name_or_path", "dtype", "attn_implementation", "trust_remote_code", "load_in_4bit", "use_peft")
_OF_LAUNCH = ("num_processes", "gpu_ids", "env")


def serialize(result: Result) -> Exported:
    """The file. Raises UserError where nothing was measured, or no causal language model."""
    _, recommendation = of_causal_model(result, "TRL")
    document, left_out = trl.settings(result)
    # The command makes adapters and 4-bit weights of its own keys; in Python they are PEFT's and bitsandbytes' objects.
    arguments = {
        name: value
        for name, value in document.items()
        if name not in (*_OF_MODEL, *_OF_LAUNCH) and not name.startswith(("lora_", "bnb_", "use_bnb"))
    }
    model = {
        name: value
        for name, value in recommendation.model_kwargs.items()
        if (name, value) != ("attn_implementation", TORCH_VARLEN)
    }
    if result.record.trust_remote_code:
        model["trust_remote_code"] = True
    method, others, imports = "", "", ["from transformers import AutoModelForCausalLM  # noqa: E402"]
    if recommendation.quantization is not None:
        imports = ["from transformers import AutoModelForCausalLM, BitsAndBytesConfig  # noqa: E402"]
        method += f"QUANTIZATION = {literal(recommendation.quantization)}\n"
        others = ", quantization_config=BitsAndBytesConfig(**QUANTIZATION)"
    if recommendation.adapter is not None:
        imports.insert(0, "from peft import LoraConfig  # noqa: E402")
        method += f"LORA = {literal(recommendation.adapter)}\n"
    imports.append("from trl import SFTConfig, SFTTrainer  # noqa: E402")
    values = {
        "HEADER": "\n".join(map(in_docstring, header(result, left_out, _use(result, document)))),
        "ENVIRONMENT": literal(recommendation.environment),
        "IMPORTS": "\n".join(imports),
        "MODEL": repr(model_name(result)),
        "MODEL_KWARGS": literal(model),
        "METHOD_KWARGS": method,
        "SFT_ARGUMENTS": literal(arguments),
        "MODEL_OTHERS": others,
        "CHECK_EFFECTIVE_BATCH": CHECK_EFFECTIVE_BATCH.replace("TrainingArguments", "SFTConfig"),
        "EFFECTIVE_BATCH": str(result.record.workload.effective_batch),
        "PROCESSES": str(result.record.workload.processes),
        "LAUNCH": launch_command(result),
        "ADAPTER": "" if recommendation.adapter is None else ", peft_config=LoraConfig(**LORA)",
    }
    return Exported(text=filled(_TEMPLATE, values), left_out=left_out)


def _use(result: Result, document: dict[str, Any]) -> str:
    limit = trl.limit_of_samples(result, document).strip()
    return f"{limit} Import it: trainer(train_dataset, sft_config('output', learning_rate=...)).train().".strip()
