"""A knob: a question, its choices, and for each choice its settings in Hugging Face and where it is available.

Settings are spelled as the newest transformers has them; ``recipe.py`` knows the older spellings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from autofit.job.situation import Situation
from autofit.knobs.numerics import Numerics
from autofit.knobs.train_config import KnobValue

Unavailable = Callable[[Situation], str | None]


def always_available(situation: Situation) -> str | None:
    """For choices that plain torch and transformers have everywhere."""
    return None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value of a knob: what it means to Hugging Face, its numerics class, and whether it can be had.

    ``unavailable`` gives the sentence that says why not, or None. Knobs use what they need of the rest:

    ``collator`` names the data collator (a class of transformers or of ``runtime/collators.py``);
    ``pads_to_longest_of_all`` gives it the workload's longest length. ``half_precision`` marks precisions whose
    matrix inputs have 16 bits; ``frozen_dtype`` is what frozen weights are stored in with it. ``state_bytes`` is the
    optimizer's state per parameter (float32 parameters; embeddings apart), and ``paged_state`` says that it lies in
    managed memory, outside the allocator's sight. ``is_compiled`` marks what is compiled in its first step.
    ``not_traced`` says how a prediction counts what a trace does not show of this choice; it then needs at most what
    is predicted. ``not_timed`` says what a predicted time leaves out, ``not_predicted`` why nothing is predicted.
    ``planned`` is its place among the values worth planning; None for what is as fast at best and needs as much, or is
    not predicted. ``traced_as`` names the optimizer whose update stands for this one's. Its first use imports
    ``package``. ``steps_parts`` says that an optimizer steps parameters that FSDP2 has cut, ``steps_flat`` that it does
    the same to those that DeepSpeed has made one long row.
    ``tolerances`` are a precision's: largest relative differences of the loss and of the gradient norm between two
    orders of the same sums. A choice on a higher ``rung`` certainly needs no more memory than one on a lower, all
    else equal; None where nothing is certain.
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
    not_timed: str = ""
    not_predicted: str = ""
    planned: int | None = None
    traced_as: str = ""
    package: str = ""
    steps_parts: bool = True
    steps_flat: bool = True
    tolerances: tuple[float, float] = (0.0, 0.0)
    rung: int | None = None


PROGRAMS_OWN = "program"
"""Value of a knob that a user's own program decides, in a way that no choice says."""
_AS_THE_PROGRAM_HAS_IT = Choice(value=PROGRAMS_OWN, title="as the program has it")


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One tunable: a row of the table, a column of every table.

    ``reference`` is the value TrainingArguments and from_pretrained have when nobody sets it (for
    precision, where the default depends on the checkpoint, the plainest one). Choices stand in the order
    in which they are worth trying. ``label`` introduces a value that does not say what it is of. ``is_of_programs``
    marks what is searched in a user's own program alone, ``is_of_processes`` what several processes have to agree on:
    elsewhere it is not asked, and has its reference. One trace serves configurations that differ only in knobs that
    are not ``is_traced``.
    """

    name: str
    title: str
    question: str
    reference: KnobValue
    choices: tuple[Choice, ...]
    label: str = ""
    is_of_programs: bool = False
    is_of_processes: bool = False
    is_traced: bool = True

    def choice(self, value: KnobValue) -> Choice:
        """The row of ``value``. Raises KeyError for a value the knob does not have."""
        if value == PROGRAMS_OWN:
            return _AS_THE_PROGRAM_HAS_IT
        for choice in self.choices:
            if choice.value == value:
                return choice
        raise KeyError(f"{self.name} has no value {value}")

    def why_not_asked(self, situation: Situation) -> str | None:
        """Reason that a situation does not ask this, as a sentence's end; None where it asks."""
        if self.is_of_programs and situation.program is None:
            return "it is searched in programs of your own alone"
        if self.is_of_processes and situation.workload.processes == 1:
            if situation.program is not None:
                return "the program runs in one process"
            return "there is one process; --processes N trains in several"
        return None

    @property
    def planned(self) -> list[KnobValue]:
        """Values that are worth planning, in that order; of a knob that names none, the reference's."""
        marked = sorted((each.planned, each.value) for each in self.choices if each.planned is not None)
        return [value for _, value in marked] or [self.reference]
