"""The training tasks autofit can build a batch for: a row each, chosen from the model's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autofit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Task:
    """``auto_class`` is the transformers class that builds the model with the task's head.

    ``masked_share`` is the share of tokens whose label counts; None where every token's does.
    """

    name: str
    auto_class: str
    architecture_endings: tuple[str, ...]
    masked_share: float | None = None


TASKS: tuple[Task, ...] = (
    Task(
        name="causal-lm",
        auto_class="AutoModelForCausalLM",
        architecture_endings=("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"),
    ),
    Task(
        name="masked-lm",
        auto_class="AutoModelForMaskedLM",
        architecture_endings=("ForMaskedLM",),
        # BERT's and RoBERTa's own training masks 15 % of the tokens (arXiv 1810.04805, section 3.1).
        masked_share=0.15,
    ),
)


def task_named(name: str) -> Task:
    """Raises UserError for a task that is not in the table."""
    for task in TASKS:
        if task.name == name:
            return task
    raise UserError(f"autofit cannot train '{name}' yet; it knows {' and '.join(task.name for task in TASKS)}.")


def task_of(config: dict[str, Any], head: str | None) -> Task:
    """The task of a model: its head in the built-in table, else its architecture, else causal-lm.

    Raises UserError where the head is of a task that is not in the table.
    """
    if head is not None:
        return task_named(head)
    if config.get("is_encoder_decoder") or config.get("vision_config") is not None or "image_size" in config:
        raise UserError(
            f"autofit cannot train '{config.get('model_type')}' models yet; "
            f"it knows {' and '.join(task.name for task in TASKS)}."
        )
    for architecture in config.get("architectures") or ():
        for task in TASKS:
            if str(architecture).endswith(task.architecture_endings):
                return task
    return TASKS[0]
