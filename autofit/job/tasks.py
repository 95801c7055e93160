"""The training tasks autofit can build a batch for: a row each, chosen from the model's configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from autofit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Task:
    """``auto_class`` is the transformers class that builds the model with the task's head.

    ``labels`` says what a sample's labels are: its own tokens, a share of them hidden (``masked``), a class
    per token, one class, or the tokens of an answer as long as the question. ``reads`` is ``tokens`` or
    ``images``. ``can_flatten`` says whether samples may share a row: causal attention and positions keep
    them apart. ``peft_task`` is PEFT's name for it, by which it keeps a new head trainable.
    """

    name: str
    auto_class: str
    architecture_endings: tuple[str, ...]
    labels: str
    reads: str = "tokens"
    peft_task: str | None = None
    can_flatten: bool = False


MASKED_SHARE = 0.15
"""The share of tokens whose label counts in masked-lm: BERT's and RoBERTa's own (arXiv 1810.04805, section 3.1)."""

TASKS: tuple[Task, ...] = (
    Task(
        name="causal-lm",
        auto_class="AutoModelForCausalLM",
        architecture_endings=("ForCausalLM", "LMHeadModel"),
        labels="tokens",
        peft_task="CAUSAL_LM",
        can_flatten=True,
    ),
    Task(
        name="masked-lm",
        auto_class="AutoModelForMaskedLM",
        architecture_endings=("ForMaskedLM", "ForPreTraining"),
        labels="masked",
    ),
    Task(
        name="sequence-classification",
        auto_class="AutoModelForSequenceClassification",
        architecture_endings=("ForSequenceClassification",),
        labels="class",
        peft_task="SEQ_CLS",
    ),
    Task(
        name="token-classification",
        auto_class="AutoModelForTokenClassification",
        architecture_endings=("ForTokenClassification",),
        labels="classes",
        peft_task="TOKEN_CLS",
    ),
    Task(
        name="seq2seq-lm",
        auto_class="AutoModelForSeq2SeqLM",
        architecture_endings=("ForConditionalGeneration", "ForSeq2SeqLM", "MTModel"),
        labels="answer",
        peft_task="SEQ_2_SEQ_LM",
    ),
    Task(
        name="image-classification",
        auto_class="AutoModelForImageClassification",
        architecture_endings=("ForImageClassification",),
        labels="class",
        reads="images",
    ),
)

_WRITE_TEXT = ("ForConditionalGeneration", "ForImageTextToText")
"""Endings of models that read images and write text, which causal language models may be, too."""

TASK_NAMES = tuple(task.name for task in TASKS)


def task_named(name: str) -> Task:
    """Raises UserError for a task that is not in the table."""
    for task in TASKS:
        if task.name == name:
            return task
    raise UserError(f"autofit cannot train '{name}' yet; --task takes {', '.join(TASK_NAMES)}.")


def is_for_another(class_name: str, task: Task) -> bool:
    """True if a model's class says by its name that it is for another task, in the table or not."""
    if class_name.endswith(task.architecture_endings):
        return False
    if task.name == "causal-lm" and class_name.endswith(_WRITE_TEXT):
        return False
    named = re.search(r"For[A-Z]\w*$", class_name) is not None
    return named or any(class_name.endswith(other.architecture_endings) for other in TASKS)


def task_of(config: dict[str, Any], head: str | None) -> Task:
    """The task of a model: its head in the built-in table, else its architecture, else what its kind suggests.

    An encoder without a head is one that people fine-tune to classify.
    """
    if head is not None:
        return task_named(head if head in TASK_NAMES else "sequence-classification")
    for architecture in config.get("architectures") or ():
        for task in TASKS:
            if str(architecture).endswith(task.architecture_endings):
                # "ForConditionalGeneration" names models that read images and write text, too.
                if task.name == "seq2seq-lm" and not config.get("is_encoder_decoder"):
                    return task_named("causal-lm")
                return task
    if config.get("is_encoder_decoder"):
        return task_named("seq2seq-lm")
    if "image_size" in config and "patch_size" in config and "vocab_size" not in config:
        return task_named("image-classification")
    return task_named("causal-lm")
