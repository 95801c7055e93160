"""Settings as accelerate trains with them: TrainingArguments do not show what its launcher asked for by variables."""

from __future__ import annotations

from typing import Any


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


def fsdp_plugin(trainer: Any) -> Any:
    """accelerate's settings of FSDP; None in a training without."""
    return trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None


def deepspeed_config(trainer: Any) -> Any:
    """DeepSpeed's settings, as they are when training begins but for what follows the model; None without it."""
    return trainer.accelerator.state.deepspeed_plugin.deepspeed_config if trainer.is_deepspeed_enabled else None


def plain(value: Any) -> Any:
    """An argument as JSON has it."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return getattr(value, "value", value)
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)) and value:
        return [plain(each) for each in value]
    return str(getattr(value, "value", value)) if value else None
