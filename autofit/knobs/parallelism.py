"""The way in which several processes share the training: each holds the model, or each holds a part of it.

With FSDP2 (torch's ``fully_shard``) parameters, gradients and optimizer state are cut into one part for each process;
a layer's parameters are gathered when it runs. Its memory is a part of theirs, its cost is that gathering.

DeepSpeed's ZeRO does the same by an engine of its own: stage 2 cuts gradients and optimizer state, stage 3 the
parameters as well. In 16 bits it computes with weights in 16 bits, and updates a float32 copy of them that is cut, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autofit.knobs.availability import first_of, missing, needs_cuda
from autofit.knobs.knob import PROGRAMS_OWN, Choice, Knob, always_available

NAME = "parallelism"
DDP = "ddp"
OFFLOADED = "fsdp2_offload"
ZERO2, ZERO3, ZERO3_OFFLOADED = "zero2", "zero3", "zero3_offload"
IN_PARTS, ON_HOST = ("fsdp2", ZERO3), (OFFLOADED, ZERO3_OFFLOADED)
"""Values under which each process holds a part of everything, on its device and on the host: FSDP2 before DeepSpeed."""
OFFLOADING = {"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}
"""Variables with which accelerate adds gloo to NCCL, which alone cannot reduce what lies on the host, such as the norm
of offloaded gradients: its own launcher sets them, torchrun does not (accelerate 1.15, state.py). Read when the
process group is made."""
REDUCE_BUCKET = 50_000_000
"""Elements that ZeRO-2 reduces at once, of which two buffers exist: 100 MB each in 16 bits. DeepSpeed's default of
500 million is for cards that have 4 GB to spare; ZeRO-3's sizes follow the model's width, as transformers sets them."""


def is_sharded(value: object) -> bool:
    """True for a value under which each process holds a part of the parameters."""
    return value not in (DDP, ZERO2, PROGRAMS_OWN)


def is_fsdp2(value: object) -> bool:
    """True for a value by which FSDP2 cuts the parameters into parts."""
    return is_sharded(value) and not is_zero(value)


def is_zero(value: object) -> bool:
    """True for a value by which DeepSpeed's engine trains."""
    return value in (ZERO2, ZERO3, ZERO3_OFFLOADED)


def is_zero3(value: object) -> bool:
    """True for a value by which DeepSpeed cuts the parameters into parts."""
    return is_zero(value) and is_sharded(value)


def zero_stage(arguments: Mapping[str, Any]) -> int | None:
    """DeepSpeed's stage in TrainingArguments that hold its settings as a mapping; None without DeepSpeed."""
    config = arguments.get("deepspeed")
    return int(config.get("zero_optimization", {}).get("stage", 0)) if config else None


def is_offloaded(value: object) -> bool:
    """True for a value under which parameters lie in the host's memory while they are not used."""
    return value in ON_HOST


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


def _zero(value: str, title: str, stage: int, **settings: Any) -> Choice:
    """A choice of DeepSpeed's. What is ``auto`` is TrainingArguments' own, or follows the model's width."""
    config = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        # Left open it is the weights' dtype: micro-batches would be added up in 16 bits.
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {"stage": stage, "overlap_comm": True, "contiguous_gradients": True, **settings},
        "zero_allow_untested_optimizer": True,
        # The optimizer that was asked for steps on the host, too; DeepSpeed's own there is compiled when it is used.
        "zero_force_ds_cpu_optimizer": False,
    }
    return Choice(
        value=value,
        title=title,
        training_arguments={"deepspeed": config},
        unavailable=first_of(needs_cuda("DeepSpeed, as accelerate starts it,"), missing("deepspeed")),
        not_predicted="DeepSpeed's engine is not traced",
        package="deepspeed",
    )


_WIDTH = {
    "reduce_bucket_size": "auto",
    "stage3_prefetch_bucket_size": "auto",
    "stage3_param_persistence_threshold": "auto",
    # Or a training ends without weights that from_pretrained reads.
    "stage3_gather_16bit_weights_on_model_save": True,
}
_ON_HOST = {"device": "cpu", "pin_memory": True}

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
        _zero(
            ZERO2,
            "DeepSpeed: each holds the weights, and a part of gradients and optimizer state",
            2,
            reduce_bucket_size=REDUCE_BUCKET,
        ),
        _zero(ZERO3, "DeepSpeed: each holds a part; parameters are gathered for forward and backward", 3, **_WIDTH),
        _zero(
            ZERO3_OFFLOADED,
            "DeepSpeed: each holds a part, in the host's memory, where it is updated",
            3,
            **_WIDTH,
            offload_optimizer=_ON_HOST,
            offload_param=_ON_HOST,
        ),
    ),
)
