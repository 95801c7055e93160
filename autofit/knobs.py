"""The table of knobs. Adding a row here adds it to the search, the tables, the study and every export.

Settings are spelled as the newest transformers has them; ``recipe.py`` knows the older spellings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from autofit.numerics import Numerics
from autofit.situation import Situation
from autofit.train_config import KnobValue

Unavailable = Callable[[Situation], str | None]


def _always_available(situation: Situation) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value of a knob: what it means to Hugging Face, its numerics class, and whether it can be had.

    ``unavailable`` gives the sentence that says why not, or None. ``paged_state`` marks optimizers whose
    state lies in managed memory, outside the allocator's sight. ``half_precision`` marks precisions whose
    matrix inputs have 16 bits.
    """

    value: KnobValue
    title: str
    training_arguments: dict[str, Any] = field(default_factory=dict)
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    numerics: Numerics = Numerics.EXACT
    unavailable: Unavailable = _always_available
    paged_state: bool = False
    half_precision: bool = False


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One tunable: a row of this table, a column of every table.

    ``reference`` is the value TrainingArguments and from_pretrained have when nobody sets it (for
    precision, where the default depends on the checkpoint, the plainest one). Choices stand in the order
    in which they are worth trying.
    """

    name: str
    title: str
    question: str
    reference: KnobValue
    choices: tuple[Choice, ...]

    def choice(self, value: KnobValue) -> Choice:
        """The row of ``value``. Raises KeyError for a value the knob does not have."""
        for choice in self.choices:
            if choice.value == value:
                return choice
        raise KeyError(f"{self.name} has no value {value}")


BATCH_KNOBS = ("micro_batch_size", "accumulation_steps")
"""The two names that split the effective batch; their values come from the workload, not from the table."""


def _needs_cuda(capability: tuple[int, int], what: str) -> Unavailable:
    def unavailable(situation: Situation) -> str | None:
        device = situation.device
        if device.kind != "cuda":
            return f"{what} needs a GPU; this is {device.name}"
        if device.compute_capability is not None and device.compute_capability < capability:
            have = ".".join(map(str, device.compute_capability))
            return f"{what} needs compute capability {capability[0]}.{capability[1]}; {device.name} has {have}"
        return None

    return unavailable


def _bf16_unavailable(situation: Situation) -> str | None:
    if situation.device.kind == "cpu":
        return None
    return _needs_cuda((8, 0), "bf16 arithmetic")(situation)


def _fp16_unavailable(situation: Situation) -> str | None:
    return _needs_cuda((5, 3), "fp16 with loss scaling")(situation)


def _checkpointing_unavailable(situation: Situation) -> str | None:
    if situation.model.supports_checkpointing:
        return None
    return f"{situation.model.model_type} models do not support activation checkpointing"


def _missing_package(feature: str) -> Unavailable:
    return lambda situation: situation.libraries.missing.get(feature)


def _paged_unavailable(situation: Situation) -> str | None:
    missing = situation.libraries.missing.get("bitsandbytes")
    if missing is None and situation.device.kind == "cpu":
        return "paging moves optimizer state between a GPU and its host; on a CPU it is the same as adamw_8bit"
    return missing


def _attention_unavailable(implementation: str) -> Unavailable:
    def unavailable(situation: Situation) -> str | None:
        missing = situation.libraries.missing.get(implementation)
        if missing is None and implementation not in situation.model.attention:
            return f"{situation.model.model_type} models do not support {implementation}"
        return missing

    return unavailable


KNOBS: tuple[Knob, ...] = (
    Knob(
        name="precision",
        title="precision",
        question="In how many bits are weights kept and matrices multiplied?",
        reference="fp32",
        choices=(
            Choice(
                value="bf16",
                title="bf16 autocast over fp32 weights",
                training_arguments={"bf16": True},
                model_kwargs={"dtype": "float32"},
                numerics=Numerics.MIXED,
                unavailable=_bf16_unavailable,
                half_precision=True,
            ),
            Choice(
                value="fp16",
                title="fp16 autocast over fp32 weights, with loss scaling",
                training_arguments={"fp16": True},
                model_kwargs={"dtype": "float32"},
                numerics=Numerics.MIXED,
                unavailable=_fp16_unavailable,
                half_precision=True,
            ),
            Choice(
                value="tf32",
                title="fp32 weights, matrix products in tf32",
                training_arguments={"tf32": True},
                model_kwargs={"dtype": "float32"},
                numerics=Numerics.MIXED,
                unavailable=_needs_cuda((8, 0), "tf32"),
            ),
            Choice(value="fp32", title="fp32 throughout", model_kwargs={"dtype": "float32"}),
            Choice(
                value="pure_bf16",
                title="bf16 weights, gradients and optimizer state, no fp32 copy",
                model_kwargs={"dtype": "bfloat16"},
                numerics=Numerics.PURE,
                unavailable=_bf16_unavailable,
                half_precision=True,
            ),
        ),
    ),
    Knob(
        name="activation_checkpointing",
        title="checkpointing",
        question="Are activations kept for the backward pass, or computed again?",
        reference="off",
        choices=(
            Choice(value="off", title="every activation is kept"),
            Choice(
                value="on",
                title="only layer inputs are kept",
                training_arguments={
                    "activation_checkpointing": True,
                    "activation_checkpointing_kwargs": {"use_reentrant": False},
                },
                unavailable=_checkpointing_unavailable,
            ),
        ),
    ),
    Knob(
        name="attention",
        title="attention",
        question="Which kernel computes attention?",
        reference="sdpa",
        choices=(
            Choice(
                value="sdpa",
                title="torch's scaled_dot_product_attention",
                model_kwargs={"attn_implementation": "sdpa"},
                unavailable=_attention_unavailable("sdpa"),
            ),
            Choice(
                value="flash_attention_2",
                title="the flash-attn package",
                model_kwargs={"attn_implementation": "flash_attention_2"},
                unavailable=_attention_unavailable("flash_attention_2"),
            ),
            Choice(
                value="eager",
                title="plain matrix products",
                model_kwargs={"attn_implementation": "eager"},
                unavailable=_attention_unavailable("eager"),
            ),
        ),
    ),
    Knob(
        name="optimizer",
        title="optimizer",
        question="Which implementation of AdamW, and in how many bits is its state kept?",
        reference="adamw_torch_fused",
        choices=(
            Choice(
                value="adamw_torch_fused",
                title="torch's fused AdamW",
                training_arguments={"optim": "adamw_torch_fused"},
            ),
            Choice(
                value="adamw_8bit",
                title="bitsandbytes' AdamW with 8-bit state",
                training_arguments={"optim": "adamw_8bit"},
                numerics=Numerics.QUANTIZED_STATE,
                unavailable=_missing_package("bitsandbytes"),
            ),
            Choice(
                value="paged_adamw_8bit",
                title="the same, its state paged to the host under pressure",
                training_arguments={"optim": "paged_adamw_8bit"},
                numerics=Numerics.QUANTIZED_STATE,
                unavailable=_paged_unavailable,
                paged_state=True,
            ),
            Choice(
                value="adamw_torch",
                title="torch's AdamW, one kernel per operation",
                training_arguments={"optim": "adamw_torch"},
            ),
        ),
    ),
)


def knob(name: str) -> Knob:
    """The row called ``name``. Raises KeyError where there is none."""
    for row in KNOBS:
        if row.name == name:
            return row
    raise KeyError(f"there is no knob {name}")


def numerics_of(values: dict[str, KnobValue]) -> tuple[Numerics, ...]:
    """The classes of a configuration's choices, each once, loosest first; exact alone where nothing else is."""
    classes = {row.choice(values[row.name]).numerics for row in KNOBS}
    looser = sorted(classes - {Numerics.EXACT}, key=lambda numerics: (-numerics.level, numerics.label))
    return tuple(looser) or (Numerics.EXACT,)
