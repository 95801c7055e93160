"""The settings a user trains with now, read from a file: what a search is compared with instead of the defaults.

The file is JSON or YAML: TrainingArguments (``TrainingArguments.to_json_string()``, or the few that were set), with
what ``from_pretrained`` is given under ``model_kwargs`` where that is not the default; or autofit's own JSON document.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from autofit.errors import UserError
from autofit.job.situation import Situation
from autofit.knobs import KNOBS, Choice, Knob
from autofit.knobs.parallelism import PARALLELISM
from autofit.knobs.precision import with_tf32_of_compiling
from autofit.knobs.train_config import KnobValue, TrainConfig

OLDER_NAMES = {
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
}
"""TrainingArguments that transformers 5.23 renamed: the old names are deprecated there, the new ones unknown before."""
NEWER_NAMES = {older: newer for newer, older in OLDER_NAMES.items()} | {"torch_dtype": "dtype"}
_OPTIMIZERS = {
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "adamw": "adamw_torch",
    "adamw_hf": "adamw_torch",
}
"""Names of transformers for the same optimizer."""
SPREADING = ("deepspeed", "fsdp", "parallelism_config")
NOT_MEASURED = (*SPREADING, "fsdp_config")
"""Settings that spread a training over devices: ignoring them would measure something else."""
_NESTED = {
    "every_n_layers": 1,
    **dict.fromkeys(("offload", "version", "reshard_after_forward", "cpu_offload")),
    **dict.fromkeys(("zero_optimization", "stage", "offload_optimizer", "offload_param")),
    "device": "none",
}
"""Settings in those that are dictionaries, by which choices differ, with what each is where nobody sets it."""
_MODEL_NAMES = ("dtype", "torch_dtype", "attn_implementation")
DEFAULT_MICRO_BATCH, DEFAULT_ACCUMULATION = 8, 1
"""TrainingArguments' when nobody sets them."""


def read_baseline(path: str | Path, situation: Situation) -> TrainConfig:
    """The configuration that a file of TrainingArguments means.

    Weights are taken to be float32 where the file does not give their ``dtype``, and the attention sdpa. Raises
    UserError where the file cannot be read, does not have the effective batch, or asks for what no knob can say.
    """
    content = _content(Path(path))
    recommended = content.get("recommendation")
    if isinstance(recommended, dict):
        content = recommended
    given: dict[str, Any] = dict(content.get("training_arguments", content))
    model: dict[str, Any] = dict(content.get("model_kwargs") or {})
    model |= {name: given.pop(name) for name in _MODEL_NAMES if name in given}
    settings = with_tf32_of_compiling(normalized({**given, **model}), situation)
    unknown = _not_searched(settings, situation)
    if unknown:
        raise UserError(
            f"--baseline {path} sets {unknown}, which autofit does not measure: compare with the same settings "
            "without it, or measure them yourself."
        )
    values: dict[str, KnobValue] = dict(_batch(settings, situation, path))
    for row in KNOBS:
        # A search by the model's name makes its samples up, and has no loader for instance.
        values[row.name] = row.reference if row.is_of_programs else _value(row, settings, situation, path)
    return TrainConfig(values)


def _not_searched(settings: Mapping[str, Any], situation: Situation) -> str:
    """The setting that shares a training otherwise than a choice does in as many processes; empty where none does.

    Of DeepSpeed's every setting has to be a choice's: sizes of buckets, for instance, decide speed and memory. FSDP's
    may name no more than choices do.
    """
    given = {name: settings[name] for name in NOT_MEASURED if settings.get(name)}
    config = given.get("fsdp_config", {})
    if situation.workload.processes == 1 or "parallelism_config" in given or not isinstance(config, dict):
        return next(iter(given), "")
    more = [name for name, value in config.items() if value and name not in _NESTED]
    if more:
        return f"{more[0]} in fsdp_config"
    engines = [choice.training_arguments.get("deepspeed") for choice in PARALLELISM.choices]
    if given.get("deepspeed") not in engines:
        return "deepspeed"
    return "" if given.get("fsdp") in (None, True) else "fsdp"


def normalized(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their newest names, as choices spell their values."""
    settings: dict[str, Any] = {NEWER_NAMES.get(name, name): value for name, value in given.items()}
    settings["optim"] = _optimizer(settings.get("optim"))
    settings["dtype"] = str(settings.get("dtype") or "float32").removeprefix("torch.")
    settings.setdefault("attn_implementation", "sdpa")
    if settings.get("train_sampling_strategy") == "random":
        del settings["train_sampling_strategy"]
    return settings


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--baseline {path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"--baseline {path} is neither JSON nor YAML.") from None
    if not isinstance(content, dict):
        raise UserError(f"--baseline {path} holds no settings; it takes TrainingArguments by name.")
    return content


def _optimizer(given: Any) -> str:
    """transformers' name, by enum text such as ``OptimizerNames.ADAMW_TORCH`` too."""
    name = str(given or "adamw_torch_fused").lower().removeprefix("optimizernames.")
    return _OPTIMIZERS.get(name, name)


def _batch(settings: Mapping[str, Any], situation: Situation, path: str | Path) -> dict[str, int]:
    size = int(settings.get("per_device_train_batch_size") or DEFAULT_MICRO_BATCH)
    steps = int(settings.get("gradient_accumulation_steps") or DEFAULT_ACCUMULATION)
    workload = situation.workload
    if size * steps != workload.samples_per_process:
        raise UserError(
            f"--baseline {path} trains {size} x {steps} = {size * steps} samples a step on each device, not "
            f"{workload.samples_per_process}; ask for --effective-batch {size * steps * workload.processes}, or change "
            "its per_device_train_batch_size or gradient_accumulation_steps."
        )
    return {"micro_batch_size": size, "accumulation_steps": steps}


def _value(row: Knob, settings: Mapping[str, Any], situation: Situation, path: str | Path) -> KnobValue:
    """The choice that says what the settings say; of several (layouts by different collators) the reference."""
    names = names_of(row)
    fitting = choices_that_say(row, settings)
    if not fitting:
        said = ", ".join(f"{name}={settings[name]}" for name in sorted(names) if settings.get(name))
        known = ", ".join(str(choice.value) for choice in row.choices)
        raise UserError(f"--baseline {path}: {row.name} cannot be told from {said}; autofit knows {known}.")
    chosen = next((choice for choice in fitting if choice.value == row.reference), fitting[0])
    reason = chosen.unavailable(situation)
    if reason is not None and chosen.value != row.reference:
        raise UserError(f"--baseline {path}: {row.name}={chosen.value} cannot be had here: {reason}.")
    return chosen.value


def names_of(row: Knob) -> set[str]:
    """Settings that a knob's choices set."""
    return {name for choice in row.choices for name in (*choice.training_arguments, *choice.model_kwargs)}


def choices_that_say(row: Knob, settings: Mapping[str, Any]) -> list[Choice]:
    """The choices of a knob that mean what (normalized) settings say; none where no choice does."""
    names = names_of(row)
    return [choice for choice in row.choices if _says(choice, names, settings)]


def _says(choice: Choice, names: set[str], settings: Mapping[str, Any]) -> bool:
    said = {**choice.training_arguments, **choice.model_kwargs}
    return all(_same(said.get(name), settings.get(name)) for name in names)


def _same(said: Any, given: Any) -> bool:
    """Unset, None and False are one. Of nested settings only those that decide how much is kept, and where, count."""
    if isinstance(said, dict) or isinstance(given, dict):
        first, second = said or {}, given or {}
        return all(_same(first.get(name) or unset, second.get(name) or unset) for name, unset in _NESTED.items())
    return (said or None) == (given or None)
