"""A sweep answers instead of a device: the same interface as real trials, with their noise, their costs, their OOMs."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

from autofit.knobs.recipe import Recipe, recipe_for
from autofit.knobs.train_config import TrainConfig
from autofit.study.measurement import Measurement, StepSeconds, Window
from autofit.study.outcome import Outcome
from autofit.study.prediction import Prediction
from autofit.study.trial import RunResult
from autofit.trial.protocol import MeasuringPlan
from benchmarks.search.sweep import Answer, Row, Sweep


class ReplayRunner:
    """Answers each configuration with one of its recorded passes, drawn by ``seed``; a repeated run draws again.

    Raises KeyError for a configuration that the sweep does not have. ``asked`` lists them in order.
    """

    def __init__(self, sweep: Sweep, seed: int) -> None:
        self._sweep = sweep
        self._random = random.Random(seed)
        self._by_recipe = {_key(recipe_for(row.config, sweep.situation)): row for row in sweep.rows}
        self.asked: list[TrainConfig] = []

    def run(self, recipe: Recipe, plan: MeasuringPlan, name: str) -> RunResult:
        return self.answer(self._by_recipe[_key(recipe)])

    def answer(self, row: Row) -> RunResult:
        """One run of a row's configuration."""
        self.asked.append(row.config)
        answer = self._random.choice(row.answers)
        measurement = measurement_of(answer, row.config) if answer.outcome is Outcome.OK else None
        return RunResult(
            outcome=answer.outcome, reason=answer.reason, measurement=measurement, wall_seconds=answer.wall_seconds
        )

    def close(self) -> None:
        return None


class RecordedPredictions:
    """Predictions of the time when the sweep was recorded; counts how many configurations were asked for."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self.asked = 0

    def plain(self, configs: Sequence[TrainConfig]) -> list[Prediction | None]:
        self.asked += len(configs)
        return [self._sweep.by_config[config].prediction for config in configs]


def true_seconds(sweep: Sweep) -> dict[TrainConfig, float]:
    """The mean over passes of the median step; infinite for what did not run in every pass."""
    found = {}
    for row in sweep.rows:
        medians = [statistics.median(answer.samples) if answer.samples else math.inf for answer in row.answers]
        found[row.config] = statistics.fmean(medians)
    return found


def full_cost(sweep: Sweep) -> float:
    """Seconds of measuring everything once."""
    return sum(statistics.fmean(answer.wall_seconds for answer in row.answers) for row in sweep.rows)


def measurement_of(answer: Answer, config: TrainConfig) -> Measurement:
    """Recorded samples as the steps of a measurement."""
    assert answer.memory is not None
    accumulation = config.accumulation_steps
    steps = tuple(
        StepSeconds(loop=0.0, fetch=0.0, micro_steps=(sample / accumulation,) * accumulation, update=0.0)
        for sample in answer.samples
    )
    return Measurement(
        micro_batch_size=config.micro_batch_size,
        accumulation_steps=accumulation,
        processes=1,
        tokens_per_step=1.0,
        padded_tokens_per_step=1.0,
        whole=True,
        warmup=steps[:1],
        windows=(Window(wall_seconds=sum(answer.samples), steps=steps),),
        shape_shares=(),
        losses=(1.0,),
        memory=answer.memory,
        evaluation_batch_size=config.micro_batch_size,
        evaluation_seconds=0.0,
        build_seconds=0.0,
    )


def _key(recipe: Recipe) -> str:
    parts = (recipe.training_arguments, recipe.model_kwargs, recipe.environment, recipe.collator_kwargs)
    return repr([sorted(part.items(), key=str) for part in parts] + [recipe.collator])
