"""``deepspeed``: a JSON file for TrainingArguments' ``deepspeed``, at the measured batch and in the measured precision.

Where DeepSpeed's engine was measured, its settings as they were. Elsewhere the engine was not: in 16 bits it keeps the
weights in 16 bits and another copy of them in 32 (deepspeed 0.19, ``runtime/bf16_optimizer.py``). Nothing is sharded or
offloaded then: stage 0.
"""

from __future__ import annotations

import json
from typing import Any

from autofit.errors import UserError
from autofit.export.exported import Exported, all_arguments, header, recommended
from autofit.export.yaml_arguments import not_arguments
from autofit.study.result import Result

MAX_GRAD_NORM = 1.0
"""TrainingArguments' own default, which DeepSpeed does not know of; another one has to be written into both."""
_OTHER_ENGINE = "the measured engine, in place of which DeepSpeed's own runs, with other memory and speed"
_PLAIN = {
    "gradient_clipping": MAX_GRAD_NORM,
    "zero_optimization": {"stage": 0},
    # bitsandbytes' and torchao's, which DeepSpeed has not tried.
    "zero_allow_untested_optimizer": True,
}


def serialize(result: Result) -> Exported:
    """The file, whose header is a key that DeepSpeed passes over. Raises UserError where nothing was measured."""
    best, _ = recommended(result)
    config, workload = best.trial.config, result.record.workload
    arguments = all_arguments(result)
    if arguments.get("fsdp"):
        raise UserError(
            "The recommendation cuts parameters into parts with FSDP2, and DeepSpeed does so in its own way, which was "
            "not measured; export training-arguments, or search with --fix parallelism=zero3."
        )
    engine: dict[str, Any] = arguments.get("deepspeed") or {}
    left_out = (
        *(() if engine else (_OTHER_ENGINE,)),
        "TrainingArguments, which have to agree with it (export training-arguments or yaml)",
        *not_arguments(result),
    )
    document: dict[str, Any] = {
        **(engine or _PLAIN),
        **({"gradient_clipping": MAX_GRAD_NORM} if engine.get("gradient_clipping") == "auto" else {}),
        "_comment": header(
            result,
            left_out,
            "Use: TrainingArguments(deepspeed=FILE), in a program that deepspeed, torchrun or accelerate starts.",
        ),
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation_steps,
        "train_batch_size": workload.effective_batch,
        "bf16": {**engine.get("bf16", {}), "enabled": bool(arguments.get("bf16", False))},
        "fp16": {**engine.get("fp16", {}), "enabled": bool(arguments.get("fp16", False))},
    }
    return Exported(text=json.dumps(document, indent=2) + "\n", left_out=left_out)
