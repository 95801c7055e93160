"""``training-arguments``: a Python file to import from, and to run on a text file as it is."""

from __future__ import annotations

import pprint
from typing import Any

from autofit.errors import UserError
from autofit.result import Result
from autofit.tasks import task_named
from autofit.units import format_bytes, format_seconds
from autofit.version import __version__

# Replaced by name rather than formatted: the code below is full of braces.
_TEMPLATE = '''\
"""Training settings for @MODEL@, found by autofit @VERSION@.

Measured: @STEP@ per optimizer step of @EFFECTIVE_BATCH@ samples of @SEQUENCE_LENGTH@ tokens, @MEMORY@ needed,
on @DEVICE@
with @LIBRARIES@.

Import ``training_arguments`` and ``load_model`` from here, or run it as it is:

    python @FILE_NAME@ --text my.txt --output-dir output

Learning rate, schedule, epochs and seed are yours to set: pass them to ``training_arguments``. With a
``compute_metrics``, also set ``eval_accumulation_steps`` and ``preprocess_logits_for_metrics``, or every
logit of the evaluation set is gathered on the device.
"""

import argparse
import os
from pathlib import Path

ENVIRONMENT = @ENVIRONMENT@
os.environ.update(ENVIRONMENT)  # torch reads these when it is imported

from transformers import @AUTO_CLASS@, AutoTokenizer, Trainer, TrainingArguments  # noqa: E402
@COLLATOR_IMPORT@

MODEL = @MODEL_REPR@
SEQUENCE_LENGTH = @SEQUENCE_LENGTH@
EFFECTIVE_BATCH = @EFFECTIVE_BATCH@  # samples per optimizer step, over all devices
PROCESSES = @PROCESSES@
MODEL_KWARGS = @MODEL_KWARGS@
TRAINING_ARGUMENTS = @TRAINING_ARGUMENTS@


def training_arguments(output_dir: str, **others) -> TrainingArguments:
    """The measured settings, and what you add to them; stops where they would change the effective batch."""
    arguments = TrainingArguments(output_dir=output_dir, **{**TRAINING_ARGUMENTS, **others})
    check_effective_batch(arguments)
    return arguments


def check_effective_batch(arguments: TrainingArguments) -> None:
    """A plain script on several GPUs becomes DataParallel, which multiplies the batch by their number."""
    effective_batch = (
        arguments.per_device_train_batch_size
        * max(1, arguments.n_gpu)
        * arguments.gradient_accumulation_steps
        * arguments.world_size
    )
    if effective_batch != EFFECTIVE_BATCH:
        raise SystemExit(
            f"These settings would train at an effective batch of {effective_batch} here, not {EFFECTIVE_BATCH}; "
            "launch with: @LAUNCH@"
        )


def load_model(name: str = MODEL):
    """The model with its weights, in the dtype and with the attention that were measured."""
    return @AUTO_CLASS@.from_pretrained(name, **MODEL_KWARGS)


def blocks_of(text: str, tokenizer) -> list[dict]:
    """The text as samples of SEQUENCE_LENGTH tokens each; the rest of it is dropped."""
    tokens = tokenizer(text)["input_ids"]
    starts = range(0, len(tokens) - SEQUENCE_LENGTH + 1, SEQUENCE_LENGTH)
    blocks = [tokens[start : start + SEQUENCE_LENGTH] for start in starts]
    return [{"input_ids": block, "attention_mask": [1] * SEQUENCE_LENGTH@LABELS@} for block in blocks]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on a text file with the measured settings.")
    parser.add_argument("--text", required=True, type=Path, help="a file of plain text")
    parser.add_argument("--model", default=MODEL, help="a folder or hub name with weights and a tokenizer")
    parser.add_argument("--output-dir", default="output")
    parser.add_argument("--max-steps", type=int, default=-1, help="stop after this many optimizer steps")
    options = parser.parse_args()
    arguments = training_arguments(options.output_dir, max_steps=options.max_steps)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    samples = blocks_of(options.text.read_text(encoding="utf-8"), tokenizer)
    if not samples:
        raise SystemExit(f"{options.text} is shorter than one sample of {SEQUENCE_LENGTH} tokens.")
    trainer = Trainer(
        model=load_model(options.model),
        args=arguments,
        train_dataset=samples,
        data_collator=@COLLATOR@,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
'''


def serialize(result: Result) -> str:
    """The file's text. Raises UserError where nothing was measured."""
    best, recommendation = result.ranking.best, result.recommendation
    if best is None or recommendation is None:
        raise UserError(f"Study '{result.study}' has no measured configuration to export.")
    workload, device = result.record.workload, result.situation.device
    task = task_named(workload.task)
    masked = task.labels == "masked"
    values = {
        "MODEL": _in_docstring(workload.model),
        "VERSION": __version__,
        "STEP": format_seconds(best.measurement.step_seconds),
        "MEMORY": format_bytes(best.measurement.memory.needed),
        "DEVICE": _in_docstring(device.name),
        "LIBRARIES": ", ".join(f"{name} {version}" for name, version in result.record.versions.items()),
        "FILE_NAME": "train_args.py",
        "ENVIRONMENT": _literal(recommendation.environment),
        "AUTO_CLASS": task.auto_class,
        "COLLATOR_IMPORT": f"from transformers import {_collator(masked)}  # noqa: E402",
        "COLLATOR": f"{_collator(masked)}(tokenizer)" if masked else _collator(masked),
        "LABELS": "" if masked else ', "labels": block',
        "MODEL_REPR": repr(workload.model),
        "SEQUENCE_LENGTH": str(workload.sequence_length),
        "EFFECTIVE_BATCH": str(workload.effective_batch),
        "PROCESSES": str(workload.processes),
        "MODEL_KWARGS": _literal(recommendation.model_kwargs),
        "TRAINING_ARGUMENTS": _literal(recommendation.training_arguments),
        "LAUNCH": _launch_command(workload.processes),
    }
    text = _TEMPLATE
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _in_docstring(name: str) -> str:
    return " ".join(name.split()).replace("\\", "/").replace('"', "'")


def _collator(masked: bool) -> str:
    return "DataCollatorForLanguageModeling" if masked else "default_data_collator"


def _launch_command(processes: int) -> str:
    if processes == 1:
        return "CUDA_VISIBLE_DEVICES=0 python"
    return f"torchrun --nproc-per-node {processes}"


def _literal(value: dict[str, Any]) -> str:
    return pprint.pformat(value, width=110, sort_dicts=False)
