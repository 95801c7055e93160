"""Compilation of the model before it is trained."""

from __future__ import annotations

from autofit.knobs.availability import missing
from autofit.knobs.knob import Choice, Knob

COMPILE = Knob(
    name="compile",
    title="compile",
    question="Is the model compiled by torch.compile?",
    reference="off",
    label="compile",
    is_traced=False,
    choices=(
        Choice(value="off", title="operators run one after another"),
        Choice(
            value="inductor",
            title="torch.compile with its default backend",
            training_arguments={"torch_compile": True},
            unavailable=missing("inductor"),
            is_compiled=True,
            not_traced="compiling is not traced: memory is that of the uncompiled model, the time an estimate",
        ),
    ),
)
