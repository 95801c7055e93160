"""A configuration as Python that can be pasted."""

from __future__ import annotations

from typing import Any

from autofit.tasks import task_named
from autofit.workload import Workload


def training_arguments_call(arguments: dict[str, Any], *, output_dir: str) -> str:
    """``TrainingArguments(...)``, one keyword a line."""
    lines = [f"    {name}={value!r}," for name, value in {"output_dir": output_dir, **arguments}.items()]
    return "TrainingArguments(\n" + "\n".join(lines) + "\n)"


def model_call(workload: Workload, model_kwargs: dict[str, Any]) -> str:
    """``AutoModelFor...from_pretrained(...)``."""
    lines = [f"    {name}={value!r}," for name, value in model_kwargs.items()]
    opening = f"{task_named(workload.task).auto_class}.from_pretrained(\n    {workload.model!r},\n"
    return opening + "\n".join(lines) + "\n)"
