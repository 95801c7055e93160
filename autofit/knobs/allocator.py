"""The caching allocator's way of growing: fixed segments or expandable ones."""

from __future__ import annotations

from autofit.knobs.availability import first_of, missing, needs_cuda
from autofit.knobs.knob import Choice, Knob

EXPANDABLE = "expandable"
VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
"""torch reads it when the allocator is first used."""
NEWER_VARIABLE = "PYTORCH_ALLOC_CONF"
"""The same for every kind of device: torch reads it first, and the other no more where it is set."""

ALLOCATOR = Knob(
    name="allocator",
    title="allocator",
    question="How does the device's caching allocator grow?",
    reference="default",
    label="allocator",
    is_traced=False,
    choices=(
        Choice(value="default", title="segments of fixed size"),
        Choice(
            value=EXPANDABLE,
            title="expandable segments: less is lost between tensors of changing sizes",
            environment={VARIABLE: "expandable_segments:True"},
            unavailable=first_of(needs_cuda("the caching allocator"), missing("expandable_segments")),
        ),
    ),
)
