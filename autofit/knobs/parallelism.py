"""The way in which several processes share the training: each holds the model, or each holds a part of it.

With FSDP2 (torch's ``fully_shard``) parameters, gradients and optimizer state are cut into one part for each process;
a layer's parameters are gathered when it runs. Its memory is a part of theirs, its cost is that gathering.
"""

from __future__ import annotations

from autofit.knobs.availability import needs_cuda
from autofit.knobs.knob import PROGRAMS_OWN, Choice, Knob, always_available

NAME = "parallelism"
DDP = "ddp"
OFFLOADED = "fsdp2_offload"
OFFLOADING = {"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}
"""Variables with which accelerate adds gloo to NCCL, which alone cannot reduce what lies on the host, such as the norm
of offloaded gradients: its own launcher sets them, torchrun does not (accelerate 1.15, state.py). Read when the
process group is made."""


def is_sharded(value: object) -> bool:
    """True for a value under which each process holds a part of the parameters."""
    return value not in (DDP, PROGRAMS_OWN)


def is_offloaded(value: object) -> bool:
    """True for a value under which parameters lie in the host's memory while they are not used."""
    return value == OFFLOADED


def _fsdp2(value: str, title: str, *, rung: int | None, planned: int | None = None, **settings: object) -> Choice:
    offloads = settings.get("cpu_offload")
    return Choice(
        value=value,
        title=title,
        training_arguments={"fsdp": True, "fsdp_config": {"version": 2, **settings}},
        environment=OFFLOADING if offloads else {},
        unavailable=needs_cuda("offloading parameters to the host") if offloads else always_available,
        rung=rung,
        planned=planned,
        not_timed="copies to and from the host and the update there are timed as if on the card" if offloads else "",
    )


PARALLELISM = Knob(
    name=NAME,
    title="parallelism",
    question="How do several processes share the training?",
    reference=DDP,
    is_of_processes=True,
    choices=(
        Choice(value=DDP, title="each process holds the whole model; gradients are averaged", rung=0, planned=0),
        _fsdp2(
            "fsdp2",
            "each holds a part; parameters are gathered for forward and again for backward",
            rung=1,
            planned=1,
            reshard_after_forward=True,
        ),
        _fsdp2(
            "fsdp2_kept",
            "each holds a part; parameters stay gathered from forward to backward",
            rung=None,
            planned=2,
            reshard_after_forward=False,
        ),
        _fsdp2(
            OFFLOADED,
            "each holds a part, in the host's memory while it is not used",
            rung=None,
            reshard_after_forward=True,
            cpu_offload=True,
        ),
    ),
)
