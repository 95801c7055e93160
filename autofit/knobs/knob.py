"""What a knob is: a question, its choices, and for each choice what it means to Hugging Face and where it can be had.

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


def always_available(situation: Situation) -> str | None:
    """For choices that plain torch and transformers have everywhere."""
    return None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value of a knob: what it means to Hugging Face, its numerics class, and whether it can be had.

    ``unavailable`` gives the sentence that says why not, or None. Knobs use what they need of the rest:

    ``collator`` names the data collator (a class of transformers or of ``trial/collators.py``);
    ``pads_to_longest_of_all`` gives it the workload's longest length. ``half_precision`` marks precisions
    whose matrix inputs have 16 bits; ``frozen_dtype`` is what frozen weights are stored in with it.
    ``state_bytes`` is the optimizer's state per parameter (float32 parameters; embeddings apart), and
    ``paged_state`` says that it lies in managed memory, outside the allocator's sight. ``is_compiled``
    marks what is compiled in its first step. ``not_traced`` says how a prediction counts what a trace does not show of
    this choice; it then needs at most what is predicted.
    """

    value: KnobValue
    title: str
    training_arguments: dict[str, Any] = field(default_factory=dict)
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    numerics: Numerics = Numerics.EXACT
    unavailable: Unavailable = always_available
    collator: str = ""
    pads_to_longest_of_all: bool = False
    half_precision: bool = False
    frozen_dtype: str = "float32"
    state_bytes: float = 0.0
    paged_state: bool = False
    is_compiled: bool = False
    not_traced: str = ""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One tunable: a row of the table, a column of every table.

    ``reference`` is the value TrainingArguments and from_pretrained have when nobody sets it (for
    precision, where the default depends on the checkpoint, the plainest one). Choices stand in the order
    in which they are worth trying. ``label`` introduces a value that does not say what it is of.
    """

    name: str
    title: str
    question: str
    reference: KnobValue
    choices: tuple[Choice, ...]
    label: str = ""

    def choice(self, value: KnobValue) -> Choice:
        """The row of ``value``. Raises KeyError for a value the knob does not have."""
        for choice in self.choices:
            if choice.value == value:
                return choice
        raise KeyError(f"{self.name} has no value {value}")
