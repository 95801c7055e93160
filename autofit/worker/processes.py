"""A Trainer in one of several processes: its part of the micro-batches, what they agree on, what is cut into parts."""

from __future__ import annotations

import functools
from typing import Any

import torch

from autofit.knobs.parallelism import zero_stage
from autofit.knobs.recipe import Recipe


def largest_of_all(arguments: Any, numbers: list[float]) -> list[float]:
    """The largest of each number over the training's processes; all of them must ask, in the same order."""
    if arguments.world_size == 1 or not numbers:
        return numbers
    together = torch.tensor(numbers, dtype=torch.float64, device=arguments.device)
    torch.distributed.all_reduce(together, torch.distributed.ReduceOp.MAX)
    found: list[float] = together.tolist()
    return found


def meet(arguments: Any) -> None:
    """Have the processes talk once: NCCL takes its buffers then, which are to be there before memory is limited."""
    if arguments.world_size > 1:
        largest_of_all(arguments, [0.0])


def agreement(arguments: Any) -> Any:
    """``largest_of_all`` for a recorder."""
    return functools.partial(largest_of_all, arguments)


def keep_whole(loader: Any, sampler: Any) -> Any:
    """A prepared loader that does not cut what a sampler gives: it is one process's own share already."""
    shares: Any = getattr(loader, "batch_sampler", None)
    if getattr(shares, "batch_sampler", None) is sampler:
        shares.num_processes, shares.process_index, shares.batch_size = 1, 0, None
    return loader


def allow_sharding_on_host(arguments: Any, recipe: Recipe) -> None:
    """Have accelerate cut parameters into parts on a CPU, too, where it would train with DDP and say nothing.

    It uses FSDP where the type of the distributed run is an accelerator's (accelerate 1.15, state.py), which every
    TrainingArguments sets anew when it is asked for its device. Does nothing for one process.
    """
    if recipe.processes == 1:
        return
    assert arguments.device is not None  # makes the process group
    if recipe.training_arguments.get("fsdp") and arguments.device.type == "cpu":
        from accelerate.state import DistributedType, PartialState

        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def check_sharding(model: Any, recipe: Recipe) -> None:
    """Raises RuntimeError where parameters are not in parts though the recipe says so, or the other way round."""
    from torch.distributed.tensor import DTensor

    stage = int(model.zero_optimization_stage()) if hasattr(model, "zero_optimization_stage") else None
    wanted = zero_stage(recipe.training_arguments)
    if stage != wanted:
        raise RuntimeError(f"DeepSpeed trains in stage {stage}, and the configuration says {wanted}")
    is_cut = any(isinstance(each, DTensor) for each in model.parameters())
    if is_cut != bool(recipe.training_arguments.get("fsdp")):
        raise RuntimeError(
            f"parameters are {'cut into parts' if is_cut else 'whole'}, which the configuration does not say"
        )
