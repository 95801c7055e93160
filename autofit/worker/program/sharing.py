"""Sharing of a program's training among its processes: what accelerate does, and what of it is the program's own.

TrainingArguments do not show what accelerate's launcher asked for by variables.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate.utils import DeepSpeedPlugin
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from torch.distributed.fsdp import CPUOffloadPolicy

from autofit.knobs import BATCH_KNOBS
from autofit.knobs.parallelism import NAME as PARALLELISM
from autofit.trial.program import TRAINER_VARIABLE
from autofit.worker.program.acceleration import deepspeed_config, fsdp_plugin, plain
from autofit.worker.program.hook import RESUMES
from autofit.worker.program.settings import DEEPSPEEDS_SPLIT, can_cut, inner_model


def sharing(trainer: Any) -> dict[str, Any]:
    """TrainingArguments for the way in which accelerate shares this training, whoever asked for it.

    Its launcher may have, by variables that TrainingArguments do not show; and what they ask for it may not do.
    """
    engine = plain(deepspeed_config(trainer))
    if engine is not None:
        engine.pop("steps_per_print", None)  # accelerate's own, infinity, which JSON does not have
    settings: dict[str, Any] = {"deepspeed": engine, "fsdp": False, "fsdp_config": None}
    settings["parallelism_config"] = trainer.accelerator.parallelism_config is not None
    plugin = fsdp_plugin(trainer)
    if plugin is not None:
        offloads = isinstance(plugin.cpu_offload, CPUOffloadPolicy)
        settings["fsdp"] = True
        settings["fsdp_config"] = {
            "version": plugin.fsdp_version,
            "reshard_after_forward": plain(plugin.reshard_after_forward),
            "cpu_offload": offloads or bool(getattr(plugin.cpu_offload, "offload_params", False)),
        }
        if plugin.activation_checkpointing:
            settings["activation_checkpointing"] = True
    return settings


def own_sharing(trainer: Any) -> dict[str, str]:
    """The reason why the way of sharing the model is the program's own, by the knob's name; empty where it is not."""
    arguments, reason = trainer.args, ""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        reason = f"the program or its launcher asks for {'FSDP' if trainer.is_fsdp_enabled else 'DeepSpeed'}"
    elif arguments.world_size == 1:
        reason = ""
    elif getattr(trainer, RESUMES, False):
        reason = "the training goes on from a checkpoint, which was written this way"
    elif arguments.device.type == "cpu":
        reason = "accelerate cuts parameters into parts on GPUs alone"
    elif os.environ.get(TRAINER_VARIABLE, "1") != "1":
        reason = "all Trainers of a program share the model in one way, and this is not its first"
    elif arguments.fsdp_config:
        reason = "the program has settings of FSDP that it does not use"
    elif not can_cut(arguments):
        reason = "this transformers takes FSDP's settings otherwise"
    elif getattr(trainer, "is_distributed_loading_by_transformers", False):
        reason = "transformers cut its parameters into parts as it loaded them"
    elif getattr(inner_model(trainer), "quantization_method", None) is not None:
        reason = "its weights are quantized"
    elif trainer.accelerator.mixed_precision != "no" and _trains_in_16_bits(trainer.model):
        # accelerate 1.15, utils/fsdp_utils.py: another training than DDP's, which keeps them.
        reason = "FSDP2 would train its 16-bit weights in float32"
    return {PARALLELISM: reason} if reason else {}


def _trains_in_16_bits(model: Any) -> bool:
    return any(weight.requires_grad and weight.dtype != torch.float32 for weight in model.parameters())


def settled_by_deepspeed(trainer: Any) -> dict[str, str]:
    """For each knob that DeepSpeed's settings decide, or that they were read for already, the sentence that says so."""
    config = deepspeed_config(trainer)
    if config is None:
        return {}
    own = dict.fromkeys(("precision", "compile"), "DeepSpeed was made ready for it with the TrainingArguments")
    if "optimizer" in config:
        own["optimizer"] = "the program's DeepSpeed settings name it"
    elif config.get("zero_optimization", {}).get("offload_optimizer", {}).get("device", "none") != "none":
        own["optimizer"] = "DeepSpeed steps it on the host, where it has one of its own"
    named = _named_split(trainer.args)
    if named:
        own[BATCH_KNOBS[0]] = (
            f"the program's DeepSpeed settings name {named}; with auto there, it can be split otherwise"
        )
    return own


def _named_split(arguments: Any) -> str:
    """The key by which a program's own settings of DeepSpeed name the split of a batch; empty where they leave it open.

    Without any in its TrainingArguments they are accelerate's launcher's, as accelerate reads its file and variables.
    """
    own = arguments.deepspeed
    given = HfDeepSpeedConfig(own).config if own else DeepSpeedPlugin().deepspeed_config
    return next((name for name in DEEPSPEEDS_SPLIT if given.get(name, "auto") != "auto"), "")
