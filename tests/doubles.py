"""Stand-ins for the two seams: a runner that answers from a formula, and situations without a device."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

from autofit.device.device import Device, Libraries
from autofit.job.lengths import SampleLengths
from autofit.job.method import Adapter
from autofit.job.situation import Limits, ModelFacts, Situation
from autofit.job.workload import Workload
from autofit.knobs.recipe import Recipe
from autofit.knobs.train_config import TrainConfig
from autofit.study.measurement import Measurement, Memory, StepSeconds, Window
from autofit.study.outcome import Outcome
from autofit.study.trial import Role, RunResult, Trial
from autofit.trial.protocol import MeasuringPlan

GIB = 1024**3
RENAMES = tuple(int(part) for part in importlib.metadata.version("transformers").split(".")[:2]) >= (5, 23)
"""True where the installed transformers has the new names of gradient checkpointing."""
NEWEST_FIELDS = frozenset({"activation_checkpointing", "activation_checkpointing_kwargs"})
FIELDS = NEWEST_FIELDS if RENAMES else frozenset()
CHECKPOINTING = "activation_checkpointing" if RENAMES else "gradient_checkpointing"

MISSING = {
    "flash_attention_2": "flash-attn is not installed",
    "liger_kernel": "liger-kernel is not installed",
    "torchao": "torchao is not installed",
    # It can be had; without it the spaces of most tests stay small.
    "inductor": "torch.compile needs a C++ compiler on a CPU",
}


def make_situation(
    *,
    effective_batch: int = 32,
    kind: str = "cpu",
    capability: tuple[int, int] | None = None,
    memory_bytes: int = 16 * GIB,
    limit_bytes: int | None = None,
    headroom: float = 0.05,
    missing: dict[str, str] | None = None,
    fields: frozenset[str] = FIELDS,
    supports_checkpointing: bool = True,
    attention: tuple[str, ...] = ("eager", "sdpa", "flash_attention_2"),
    sequence_length: int = 128,
    method: str = "full",
    task: str = "causal-lm",
    lengths: SampleLengths | None = None,
    processes: int = 1,
) -> Situation:
    return Situation(
        workload=Workload(
            model="some/llama",
            model_digest="0" * 16,
            task=task,
            method=method,
            adapter=None if method == "full" else Adapter(),
            lengths=lengths or SampleLengths.fixed(sequence_length),
            effective_batch=effective_batch,
            processes=processes,
        ),
        device=Device(
            kind=kind,
            name="Some CPU" if kind == "cpu" else "Some GPU",
            memory_bytes=memory_bytes,
            compute_capability=capability,
        ),
        libraries=Libraries(
            versions={"torch": "2.13.0"},
            training_argument_fields=fields,
            missing=MISSING if missing is None else missing,
            not_installed=frozenset(each for each in MISSING.values() if each.endswith("is not installed")),
        ),
        model=ModelFacts(
            model_type="llama",
            num_parameters=1_000_000,
            trainable_parameters=1_000_000,
            embedding_parameters=200_000,
            vocabulary_size=1000,
            max_positions=2048,
            supports_checkpointing=supports_checkpointing,
            attention=attention,
            checkpointable_layers=12,
            keeps_documents_apart=True,
        ),
        limits=Limits(memory_bytes=memory_bytes if limit_bytes is None else limit_bytes, headroom=headroom),
    )


def make_config(**changes: Any) -> TrainConfig:
    values = {
        "micro_batch_size": 8,
        "accumulation_steps": 4,
        "precision": "fp32",
        "activation_checkpointing": "off",
        "attention": "sdpa",
        "batch_layout": "dynamic_padding",
        "optimizer": "adamw_torch_fused",
        "kernels": "default",
        "compile": "off",
        "allocator": "default",
        "loader": "default",
        "parallelism": "ddp",
    }
    return TrainConfig({**values, **changes})


def make_measurement(
    seconds: float = 1.0,
    *,
    micro_batch_size: int = 8,
    accumulation_steps: int = 4,
    needed: int = GIB,
    whole: bool = True,
    jitter: float = 0.0,
) -> Measurement:
    """Steps of exactly ``seconds`` at the full accumulation, or spread by ``jitter`` around it."""

    def step(total: float) -> StepSeconds:
        part = total / accumulation_steps
        ran = accumulation_steps if whole else min(3, accumulation_steps)
        return StepSeconds(loop=0.0, fetch=0.0, micro_steps=(part,) * ran, update=0.0)

    steps = tuple(step(seconds * (1 + sign * jitter)) for sign in (0, 1, -1, 0))
    return Measurement(
        micro_batch_size=micro_batch_size,
        accumulation_steps=accumulation_steps,
        processes=1,
        tokens_per_step=float(micro_batch_size * accumulation_steps * 128),
        padded_tokens_per_step=float(micro_batch_size * accumulation_steps * 128),
        whole=whole,
        warmup=(step(seconds * 2),),
        windows=(Window(wall_seconds=sum(each.total for each in steps), steps=steps),),
        shape_shares=(),
        losses=(1.0,),
        memory=Memory(peak_allocated=needed, peak_reserved=needed, context=0, paged_state=0, cap=16 * GIB),
        evaluation_batch_size=micro_batch_size,
        evaluation_seconds=0.1,
        build_seconds=0.1,
    )


def make_trial(
    number: int = 0,
    *,
    seconds: float | None = 1.0,
    outcome: Outcome = Outcome.OK,
    reason: str = "",
    whole: bool = True,
    jitter: float = 0.0,
    needed: int = GIB,
    number_of_round: int | None = None,
    role: Role = Role.CANDIDATE,
    **changes: Any,
) -> Trial:
    config = make_config(**changes)
    measurement = None
    if outcome is Outcome.OK:
        assert seconds is not None
        measurement = make_measurement(
            seconds,
            micro_batch_size=config.micro_batch_size,
            accumulation_steps=config.accumulation_steps,
            whole=whole,
            jitter=jitter,
            needed=needed,
        )
    return Trial(
        number=number,
        values=dict(config),
        outcome=outcome,
        reason=reason or ("" if outcome is Outcome.OK else "it failed"),
        measurement=measurement,
        whole=whole,
        round=number_of_round,
        wall_seconds=1.0,
        role=role,
    )


class FormulaRunner:
    """Answers a recipe from two formulas over its configuration: seconds, and bytes against a limit.

    ``asked`` lists the configurations in order; ``before`` may raise, to stand for Ctrl-C.
    """

    def __init__(
        self,
        configs: dict[str, TrainConfig],
        seconds: Callable[[TrainConfig], float],
        needed: Callable[[TrainConfig], int] = lambda config: GIB,
        limit: int = 16 * GIB,
        before: Callable[[TrainConfig], None] = lambda config: None,
    ) -> None:
        self._configs = configs
        self._seconds = seconds
        self._needed = needed
        self._limit = limit
        self._before = before
        self.asked: list[TrainConfig] = []
        self.plans: list[MeasuringPlan] = []

    def run(self, recipe: Recipe, plan: MeasuringPlan, name: str) -> RunResult:
        config = self._configs[recipe_key(recipe)]
        self._before(config)
        self.asked.append(config)
        self.plans.append(plan)
        needed = self._needed(config)
        if needed > self._limit:
            return RunResult(outcome=Outcome.OOM, reason="the memory limit was reached", wall_seconds=0.1)
        measurement = make_measurement(
            self._seconds(config),
            micro_batch_size=config.micro_batch_size,
            accumulation_steps=config.accumulation_steps,
            needed=needed,
            whole=plan.whole or config.accumulation_steps <= 3,
        )
        return RunResult(outcome=Outcome.OK, measurement=measurement, wall_seconds=0.1)

    def close(self) -> None:
        return None


def recipe_key(recipe: Recipe) -> str:
    """Tells recipes of one situation apart."""
    return repr((sorted(recipe.training_arguments.items(), key=str), sorted(recipe.model_kwargs.items())))
