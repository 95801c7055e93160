"""Record full sweeps on this CPU, twice each in random order: ``python -m benchmarks.search.record_sweep [NAME ...]``.

Nothing else may run meanwhile. Under a memory limit, so that some configurations run out of memory.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from autofit.measurement import Measurement
from autofit.predict.needs import CannotPredictError
from autofit.predict.predictor import Predictor
from autofit.prediction import Prediction
from autofit.recipe import recipe_for
from autofit.request import JobRequest
from autofit.space import SearchSpace, SpaceRequest
from autofit.train_config import TrainConfig
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import RunResult
from autofit.trial.workers import Workers
from benchmarks.record import about
from benchmarks.search.sweep import Answer, Row, Sweep, write_sweep

SWEEPS = Path(__file__).parent / "sweeps"
MODELS = Path("benchmarks/search/models")
PASSES = 2
PLAN = MeasuringPlan(patience_seconds=1.0)
ALL_FP32: dict[str, Any] = {"fix": {"precision": "fp32", "compile": "off"}, "numerics": "standard"}
JOBS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama-fixed": (
        {"model": "examples/small-llama", "effective_batch": 16, "seq_len": 128, "memory_limit": "90MiB"},
        {
            **ALL_FP32,
            "forbid": {
                "activation_checkpointing": ["every_3rd", "every_4th"],
                "optimizer": ["lion_8bit", "adamw_torch"],
            },
        },
    ),
    "gpt-neox-fixed": (
        {"model": str(MODELS / "small-gpt-neox"), "effective_batch": 16, "seq_len": 96, "memory_limit": "110MiB"},
        {**ALL_FP32, "forbid": {"activation_checkpointing": ["every_3rd"], "optimizer": ["lion_8bit", "adamw_torch"]}},
    ),
    "llama-genesis": (
        {
            "model": "examples/small-llama",
            "effective_batch": 16,
            "data": "examples/genesis.txt",
            "tokens_per_word": 1.3,
            "memory_limit": "110MiB",
        },
        {
            **ALL_FP32,
            "numerics": "aggressive",
            "fix": {**ALL_FP32["fix"], "attention": "sdpa"},
            "forbid": {
                "activation_checkpointing": ["every_3rd", "every_4th"],
                "optimizer": ["lion_8bit", "adafactor", "adamw_8bit", "adamw_torch"],
                "batch_layout": ["batch_rebalance"],
            },
        },
    ),
}
"""A job and the part of its space that is swept."""


def record(name: str) -> None:
    """Measure every configuration of a sweep and write the file."""
    job, wanted = JOBS[name]
    record_ = JobRequest(device="cpu", **job).record()
    request = SpaceRequest.of(**wanted)
    with (
        tempfile.TemporaryDirectory(prefix="autofit-") as folder,
        Workers(record_, Path(folder), Path(folder) / "traces", print, most_seconds=300) as workers,
    ):
        situation = workers.probe()
        space = SearchSpace(situation, request)
        predictor = workers.predictor(situation)
        configs = list(space.configs)
        print(f"{name}: {len(configs)} configurations, {PASSES} times", flush=True)
        predictor.prepare(configs)
        predictions = {config: _predicted(predictor, config) for config in configs}
        runner = workers.runner(situation)
        answers: dict[TrainConfig, list[Answer]] = {config: [] for config in configs}
        began = time.monotonic()
        for number in range(PASSES):
            random.Random(number).shuffle(configs)
            for config in configs:
                result = runner.run(recipe_for(config, situation), PLAN, "sweep")
                answers[config].append(answer_of(result))
            print(f"pass {number + 1} after {time.monotonic() - began:.0f} s", flush=True)
    sweep = Sweep(
        name=name,
        situation=situation,
        request=msgspec.to_builtins(request),
        rows=tuple(
            Row(values=dict(config), answers=tuple(answers[config]), prediction=predictions[config])
            for config in space.configs
        ),
        about=about(f"python -m benchmarks.search.record_sweep {name}"),
    )
    write_sweep(sweep, SWEEPS / f"{name}.json.gz")
    outcomes = [answer.outcome.value for row in sweep.rows for answer in row.answers]
    print({each: outcomes.count(each) for each in sorted(set(outcomes))}, flush=True)


def answer_of(result: RunResult) -> Answer:
    """What is kept of a run."""
    measurement = result.measurement
    return Answer(
        outcome=result.outcome,
        reason=result.reason,
        samples=() if measurement is None else _samples(measurement),
        memory=None if measurement is None else measurement.memory,
        wall_seconds=result.wall_seconds,
    )


def _samples(measurement: Measurement) -> tuple[float, ...]:
    """Each timed step as a sample of the mean step: scaled by its own shape's median where several were timed."""
    if not measurement.shape_shares:
        return measurement.samples
    found: list[float] = []
    for shape, _ in measurement.shape_shares:
        of_shape = [
            sample
            for window in measurement.windows
            if window.shape == shape
            for sample in window.samples(measurement.accumulation_steps)
        ]
        middle = statistics.median(of_shape)
        found += [measurement.step_seconds * sample / middle for sample in of_shape]
    return tuple(found)


def _predicted(predictor: Predictor, config: TrainConfig) -> Prediction | None:
    try:
        return predictor.predict(config)
    except CannotPredictError:
        return None


def main(names: list[str]) -> int:
    """Record the sweeps that are named; all where none is."""
    for name in names or JOBS:
        record(name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
