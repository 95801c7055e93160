"""Sentences for programs that are not searched, each with what would have to be otherwise."""

from __future__ import annotations

from typing import Any

from autofit.device.device import Device
from autofit.units import counted
from autofit.worker.program.samples import LOOKING_SECONDS, Source


def why_not_on(device: Device, arguments: Any) -> str | None:
    """The sentence where the program would not train on this one device."""
    if arguments.device.type != device.kind:
        return (
            f"The program trains on '{arguments.device.type}', and the search is for {device.name}: say "
            f"--device {arguments.device.type}, or leave out what keeps the program from it (use_cpu, say)."
        )
    if arguments.n_gpu > 1:
        return (
            f"The program would train by DataParallel on {arguments.n_gpu} GPUs, which multiplies its batch: "
            "choose one with CUDA_VISIBLE_DEVICES=0, or start it with torchrun."
        )
    return None


def why_not_split(trainer: Any, source: Source) -> str | None:
    """The sentence where the program's batches cannot be split otherwise, or are not what its arguments say."""
    arguments, name = trainer.args, type(trainer).__name__
    if (getattr(arguments, "num_generations", None) or 1) > 1:
        return (
            f"{name} generates num_generations completions of a prompt in blocks that are settled as it is made: "
            "autofit does not measure such trainings yet."
        )
    if source.makes_own_batches:
        decides = "stream" if source.is_stream else f"own {type(source.loader.batch_sampler).__name__}"
        return (
            f"The program's {decides} decides which samples share a micro-batch, so autofit cannot split its batches "
            "otherwise."
        )
    if source.batch_size != arguments.per_device_train_batch_size:
        return (
            f"The program's own loader gives {source.batch_size} samples at once, whatever per_device_train_batch_size "
            f"says ({arguments.per_device_train_batch_size}): have it take {name}'s train_batch_size, as autofit "
            "splits batches by that argument."
        )
    if arguments.world_size > 1 and trainer.accelerator.split_batches:
        return (
            "With split_batches the processes share each micro-batch, and per_device_train_batch_size is of all of "
            "them: autofit does not measure this. Leave it out and divide per_device_train_batch_size by "
            f"{arguments.world_size}."
        )
    return None


def too_few(source: Source, effective_batch: int) -> str:
    """The sentence for data with fewer samples than an effective batch has."""
    fewer = counted(len(source.samples), "sample")
    given = f"stream gave {fewer} in {LOOKING_SECONDS:.0f} s" if source.is_stream else f"data has {fewer}"
    return f"The program's {given}, fewer than one effective batch of {effective_batch}: give it more."
