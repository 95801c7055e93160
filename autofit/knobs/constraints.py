"""Constraints: choices of different knobs that do not go together, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autofit.device.kinds import kind_of
from autofit.job.situation import Situation
from autofit.knobs.attention import FLASH, VARLEN
from autofit.knobs.knob import PROGRAMS_OWN, Choice
from autofit.knobs.own_program import own_config
from autofit.knobs.parallelism import is_fsdp2, is_offloaded, is_zero, is_zero3, zero_stage
from autofit.knobs.precision import PURE_BF16
from autofit.knobs.table import knob
from autofit.knobs.train_config import KnobValue


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """Choices that do not go together, whatever the micro-batch, and why."""

    reason: str
    forbids: Callable[[Mapping[str, KnobValue], Situation], bool]


def _half_precision(config: Mapping[str, KnobValue], situation: Situation) -> bool:
    if config["precision"] == PROGRAMS_OWN:
        return situation.program is not None and situation.program.half_precision
    return knob("precision").choice(config["precision"]).half_precision


def _optimizer(config: Mapping[str, KnobValue]) -> Choice:
    return knob("optimizer").choice(config["optimizer"])


def _is_one_row(config: Mapping[str, KnobValue], situation: Situation) -> bool:
    """True where DeepSpeed makes one row of all parameters, as it does from stage 1 on."""
    program = situation.program
    return is_zero(config["parallelism"]) or (program is not None and (zero_stage(program.settings) or 0) > 0)


def _is_frozen_otherwise(config: Mapping[str, KnobValue], situation: Situation) -> bool:
    """True where frozen weights are asked for in another dtype than the one that their precision has by itself."""
    adapter = situation.workload.adapter
    if adapter is None or adapter.frozen_dtype == "auto" or config["precision"] == PROGRAMS_OWN:
        return False
    return adapter.frozen_dtype != knob("precision").choice(config["precision"]).frozen_dtype


CONSTRAINTS: tuple[Constraint, ...] = (
    Constraint(
        reason="flash attention takes 16-bit inputs only",
        forbids=lambda config, situation: config["attention"] in FLASH and not _half_precision(config, situation),
    ),
    Constraint(
        reason="torch_varlen takes 16-bit inputs only on a GPU",
        forbids=lambda config, situation: (
            config["attention"] == "torch_varlen"
            and not kind_of(situation.device).is_host
            and not _half_precision(config, situation)
        ),
    ),
    Constraint(
        reason="torch_varlen is for flattened batches; others have no documents' ends",
        forbids=lambda config, situation: (
            config["attention"] == "torch_varlen" and config["batch_layout"] != "flattened"
        ),
    ),
    Constraint(
        reason="flattened without a variable-length attention is correct, but pays for a dense mask over all tokens",
        forbids=lambda config, situation: config["batch_layout"] == "flattened" and config["attention"] not in VARLEN,
    ),
    Constraint(
        reason="packed rows are told apart by a mask, which flash attention does not take",
        forbids=lambda config, situation: config["batch_layout"] == "packed" and config["attention"] in FLASH,
    ),
    Constraint(
        reason="bitsandbytes' optimizers and Adafactor do not step parameters that FSDP2 has cut into parts",
        forbids=lambda config, situation: is_fsdp2(config["parallelism"]) and not _optimizer(config).steps_parts,
    ),
    Constraint(
        reason="Adafactor factors matrices, and DeepSpeed makes one long row of all parameters",
        forbids=lambda config, situation: _is_one_row(config, situation) and not _optimizer(config).steps_flat,
    ),
    Constraint(
        reason="DeepSpeed updates a float32 copy of the weights: what it does under bf16, not pure_bf16",
        forbids=lambda config, situation: is_zero(config["parallelism"]) and config["precision"] == PURE_BF16,
    ),
    Constraint(
        reason="transformers loads no 4-bit weights in parts, as ZeRO-3 takes them",
        forbids=lambda config, situation: situation.workload.method == "qlora" and is_zero3(config["parallelism"]),
    ),
    Constraint(
        reason="state that lies on the host is not paged: bitsandbytes' unpaged optimizers are the same there",
        forbids=lambda config, situation: is_offloaded(config["parallelism"]) and _optimizer(config).paged_state,
    ),
    Constraint(
        reason="DeepSpeed keeps frozen weights in what it computes in, and --frozen-dtype is another",
        forbids=lambda config, situation: is_zero(config["parallelism"]) and _is_frozen_otherwise(config, situation),
    ),
    Constraint(
        reason="torchao's optimizers, which are compiled, do not step parameters that lie on the host",
        forbids=lambda config, situation: is_offloaded(config["parallelism"]) and _optimizer(config).is_compiled,
    ),
    Constraint(
        reason="compile needs batches of one shape: with others it compiles again and again",
        forbids=lambda config, situation: (
            config["compile"] != "off"
            and config["batch_layout"] != "fixed_padding"
            and not situation.workload.lengths.all_equal
        ),
    ),
    Constraint(
        reason="compiled in fp32 it would multiply in TF32, which accelerate turns on; precision=tf32 says so",
        forbids=lambda config, situation: (
            config["compile"] != "off"
            and config["precision"] == "fp32"
            and (situation.device.compute_capability or (0, 0)) >= (8, 0)
        ),
    ),
)


def constraints_on(situation: Situation) -> tuple[Constraint, ...]:
    """Constraints of a situation: what a program trains with now goes together, whatever is known about it."""
    if situation.program is None:
        return CONSTRAINTS
    own = own_config(situation.program)
    return tuple(each for each in CONSTRAINTS if not each.forbids(own, situation))
