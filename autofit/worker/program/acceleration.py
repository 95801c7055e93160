"""Settings as accelerate trains with them: TrainingArguments do not show what its launcher asked for by variables."""

from __future__ import annotations

from typing import Any

from torch.distributed.fsdp import CPUOffloadPolicy


def mixed_precision(trainer: Any) -> dict[str, Any]:
    """TrainingArguments for the precision that accelerate multiplies in, whoever asked for it."""
    name = trainer.accelerator.mixed_precision
    # One that no argument says stays as it is told, and is the program's own.
    return {"bf16": {"no": False, "fp16": False, "bf16": True}.get(name, name), "fp16": name == "fp16"}


def compilation(trainer: Any) -> bool | str:
    """``torch_compile`` as accelerate does it, whoever asked for it; words for what that argument does not say."""
    plugin = trainer.accelerator.state.dynamo_plugin
    backend = plugin.backend.value.lower()
    regional = "regional" if plugin.use_regional_compilation else "default"
    others = [name for name in (backend, plugin.mode, regional) if name not in ("inductor", "default")]
    return backend != "no" and (", ".join(others) or True)


def sharing(trainer: Any) -> dict[str, Any]:
    """TrainingArguments for the way in which accelerate shares this training, whoever asked for it.

    Its launcher may have, by variables that TrainingArguments do not show; and what they ask for it may not do.
    """
    settings: dict[str, Any] = {"deepspeed": trainer.is_deepspeed_enabled, "fsdp": False, "fsdp_config": None}
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


def fsdp_plugin(trainer: Any) -> Any:
    """accelerate's settings of FSDP; None in a training without."""
    return trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None


def plain(value: Any) -> Any:
    """An argument as JSON has it."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return getattr(value, "value", value)
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    return str(getattr(value, "value", value)) if value else None
