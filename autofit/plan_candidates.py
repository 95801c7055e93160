"""Which configurations are worth planning for a card: a few values of each knob, every split of the batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from autofit.knobs.attention import VARLEN
from autofit.space import SearchSpace
from autofit.train_config import KnobValue, TrainConfig

FIRST_RUNGS = ("off", "every_layer")
CHECKPOINTING = "activation_checkpointing"
LADDER_BETWEEN = ("every_2nd", "every_4th")
PREFERRED: dict[str, tuple[str, ...]] = {
    "precision": ("bf16", "fp16", "tf32", "fp32"),
    "attention": ("sdpa", "flash_attention_2", "eager"),
    "optimizer": ("adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor", "lion_8bit"),
    "kernels": ("default",),
    "compile": ("off",),
    "allocator": ("default",),
}
"""What is worth planning of each knob: others are as fast at best and need as much, or are not predicted."""


def candidates_of(space: SearchSpace, rungs: Sequence[str]) -> list[TrainConfig]:
    """Configurations worth planning, with these rungs of the checkpointing ladder."""
    choices: dict[str, list[KnobValue]] = {
        name: [value for value in preferred if value in space.choices[name]] or list(space.choices[name][:1])
        for name, preferred in PREFERRED.items()
    }
    # One precision of autocast is enough; weights in 16 bits where they are allowed are another matter.
    choices["precision"] = choices["precision"][:1]
    if "pure_bf16" in space.choices["precision"] and "pure_bf16" not in choices["precision"]:
        choices["precision"].append("pure_bf16")
    choices["attention"] = choices["attention"][:1]
    allowed = space.choices[CHECKPOINTING]
    choices[CHECKPOINTING] = [rung for rung in rungs if rung in allowed] or list(allowed[:1])
    layouts = space.choices["batch_layout"]
    choices["batch_layout"] = [each for each in layouts if each in ("dynamic_padding", "packed")] or list(layouts[:1])
    if "flattened" in layouts:
        choices["batch_layout"].append("flattened")
    configs = [
        TrainConfig(
            {
                "micro_batch_size": micro_batch_size,
                "accumulation_steps": accumulation_steps,
                **dict(zip(choices, values, strict=True)),
            }
        )
        for values in itertools.product(*choices.values())
        for micro_batch_size, accumulation_steps in space.batch_pairs
    ]
    # A flattened row needs an attention that keeps to its samples.
    varlen = next((each for each in VARLEN if each in space.choices["attention"]), None)
    configs = [
        config.replace(attention=varlen) if config["batch_layout"] == "flattened" and varlen is not None else config
        for config in configs
    ]
    return [config for config in configs if config in space]


def reference_of(space: SearchSpace) -> TrainConfig:
    """The values that are fixed, and of the others what is worth planning first; micro-batch up to 8."""
    candidates = candidates_of(space, ("off",)) or [space.configs[0]]
    near = [config for config in candidates if config.micro_batch_size <= 8]
    return max(near or candidates[:1], key=lambda config: config.micro_batch_size)


def leanest_of(space: SearchSpace) -> TrainConfig:
    """The least of memory that is planned: smallest micro-batch, every layer checkpointed, smallest state."""
    lean = candidates_of(space, ("every_layer",)) or candidates_of(space, ("off",))
    wanted = ("pure_bf16", "adamw_8bit")
    return min(lean, key=lambda config: (config.micro_batch_size, *(value not in config.values() for value in wanted)))
