"""Filling a file's template, and values as Python that is written into it."""

from __future__ import annotations

import pprint
from collections.abc import Mapping
from typing import Any

CHECK_EFFECTIVE_BATCH = '''\
def check_effective_batch(arguments: TrainingArguments) -> None:
    """A plain script on several GPUs becomes DataParallel, which multiplies the batch by their number."""
    processes = max(1, arguments.n_gpu) * arguments.world_size
    in_each = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    if in_each * processes != EFFECTIVE_BATCH:
        remedy = "launch with: @LAUNCH@"
        if processes == @PROCESSES@:
            remedy = "leave the batch size and the accumulation as they were measured"
        raise SystemExit(
            f"These settings would train at an effective batch of {in_each * processes} here, not {EFFECTIVE_BATCH}; "
            f"{remedy}."
        )
'''
"""Function of an exported file that has TrainingArguments and EFFECTIVE_BATCH."""


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with every ``@NAME@`` replaced: by name rather than formatted, as code is full of braces."""
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    return template


def in_docstring(text: str) -> str:
    """Text that ends no docstring and no line."""
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")


def literal(value: dict[str, Any]) -> str:
    """A dict as Python, in lines of at most 110 columns."""
    return pprint.pformat(value, width=110, sort_dicts=False)
