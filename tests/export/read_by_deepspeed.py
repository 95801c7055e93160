"""DeepSpeed's own reading of files, in a process that finds it: ``python read_by_deepspeed.py FILE ...``.

A FILE holds the exported one and the measured TrainingArguments beside which it is to be used.
Prints a JSON list: for each file the batch, precision and stage that DeepSpeed and TrainingArguments agree on.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.update(DS_ACCELERATOR="cpu", HF_HUB_OFFLINE="1")

from deepspeed.runtime.config import DeepSpeedConfig
from transformers import TrainingArguments


class TinyModel:
    """The part of a model that transformers asks for when it completes a configuration."""

    class config:  # noqa: N801 - transformers' name
        hidden_size = 16


def _offloads(zero: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Of the offloading that DeepSpeed understood, what a file asks for."""
    return {
        name: {key: zero[name][key] for key in value} for name, value in asked.items() if name.startswith("offload_")
    }


def read(path: Path) -> dict[str, Any]:
    pair = json.loads(path.read_text(encoding="utf-8"))
    document = pair["file"]
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "fp16")
    place = "deepspeed.runtime.config.dist"
    arguments = TrainingArguments(
        output_dir=str(path.with_suffix("")),
        use_cpu=True,
        deepspeed=document,
        **{name: pair["arguments"][name] for name in batch if name in pair["arguments"]},
    )
    # Raises where the two do not say the same.
    arguments.hf_deepspeed_config.trainer_config_process(arguments)
    arguments.hf_deepspeed_config.trainer_config_finalize(arguments, TinyModel, 10)
    with patch(f"{place}.get_rank", return_value=0), patch(f"{place}.get_world_size", return_value=1):
        understood = DeepSpeedConfig(arguments.hf_deepspeed_config.config)
    zero = json.loads(understood.zero_config.model_dump_json(by_alias=True))
    return {
        "train_batch_size": understood.train_batch_size,
        "train_micro_batch_size_per_gpu": understood.train_micro_batch_size_per_gpu,
        "gradient_accumulation_steps": understood.gradient_accumulation_steps,
        "gradient_clipping": understood.gradient_clipping,
        "bf16": {"enabled": understood.bfloat16_config.enabled},
        "fp16": {"enabled": understood.float16_config.enabled},
        "data_types": {"grad_accum_dtype": understood.grad_accum_dtype},
        "zero_optimization": {**zero, **_offloads(zero, document["zero_optimization"])},
        "zero_allow_untested_optimizer": understood.zero_allow_untested_optimizer,
    }


if __name__ == "__main__":
    print("READ", json.dumps([read(Path(word)) for word in sys.argv[1:]]))
