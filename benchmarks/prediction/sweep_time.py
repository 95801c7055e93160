"""Part 4: predicted against measured steps over a whole sweep of this CPU: their order, their error, and the memory.

Also what accelerate's estimate and the rule of 16 bytes per parameter say of the same configurations.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from autofit.driver.workers import Workers
from autofit.job.request import JobRequest
from autofit.knobs import completed
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import TrainConfig
from autofit.trial.protocol import MeasuringPlan
from benchmarks.prediction.ranks import rank_correlation

MODEL = "examples/small-llama"
TO_CALIBRATE = 2


def run() -> dict[str, Any]:
    """Measure every configuration of the sweep, in random order; compare with what was predicted."""
    record = JobRequest(model=MODEL, effective_batch=16, seq_len=128, device="cpu").record()
    with (
        tempfile.TemporaryDirectory(prefix="autofit-") as folder,
        Workers(record, Path(folder), Path(folder) / "traces", print, most_seconds=300) as workers,
    ):
        situation = workers.probe()
        space = SearchSpace(situation, SpaceRequest(numerics="exact"))
        predictor = workers.predictor(situation)
        configs = [config for config in _sweep(space) if config in space]
        random.Random(0).shuffle(configs)
        predictor.prepare(configs)
        before = {config: predictor.predict(config) for config in configs}
        runner = workers.runner(situation)
        rows: list[dict[str, Any]] = []
        for number, config in enumerate(configs):
            result = runner.run(recipe_for(config, situation), MeasuringPlan(), f"sweep-{number:03d}")
            if result.measurement is None:
                print(result.reason)
                continue
            measured = result.measurement
            if number < TO_CALIBRATE:
                predictor.learn(
                    config,
                    needed_bytes=measured.memory.needed,
                    paged_bytes=0,
                    context=0,
                    seconds=measured.step_seconds,
                )
            rows.append(
                {
                    "config": dict(config),
                    "measured_seconds": measured.step_seconds,
                    "uncertainty": measured.uncertainty,
                    "measured_bytes": measured.memory.needed,
                    "predicted_seconds": before[config].likely_seconds,
                    "predicted_bytes": before[config].total_bytes,
                }
            )
        for row in rows:
            after = predictor.predict(TrainConfig(row["config"]))
            row["calibrated_seconds"] = after.likely_seconds
            row["calibrated_bytes"] = after.total_bytes
    parameters = situation.model.num_parameters
    summary = _summary(rows, parameters)
    for name, value in summary.items():
        print(f"{name:58} {value}")
    return {"model": MODEL, "summary": summary, "rows": rows}


def _sweep(space: SearchSpace) -> list[TrainConfig]:
    rungs, attentions = ("off", "every_2nd", "every_layer"), ("sdpa", "eager")
    optimizers = ("adamw_torch_fused", "adamw_torch")
    return [
        TrainConfig(
            completed(
                {
                    "micro_batch_size": size,
                    "accumulation_steps": steps,
                    "activation_checkpointing": rung,
                    "attention": attention,
                    "optimizer": optimizer,
                }
            )
        )
        for (size, steps), rung, attention, optimizer in itertools.product(
            space.batch_pairs, rungs, attentions, optimizers
        )
    ]


def _summary(rows: list[dict[str, Any]], parameters: int) -> dict[str, Any]:
    measured = [row["measured_seconds"] for row in rows]
    learned = rows[TO_CALIBRATE:]

    def errors(rows_: list[dict[str, Any]], predicted: str, what: str) -> dict[str, float]:
        found = [row[predicted] / row[what] - 1 for row in rows_]
        return {"median": statistics.median(map(abs, found)), "worst": max(found, key=abs)}

    rule = [{**row, "rule": 16 * parameters} for row in rows]
    return {
        "configurations": len(rows),
        "rank correlation of predicted and measured seconds": rank_correlation(
            [row["predicted_seconds"] for row in rows], measured
        ),
        "median uncertainty of what was measured": statistics.median(row["uncertainty"] for row in rows),
        "seconds, as predicted": errors(rows, "predicted_seconds", "measured_seconds"),
        "seconds, after two trials": errors(learned, "calibrated_seconds", "measured_seconds"),
        "bytes, as predicted (resident pages against live bytes)": errors(rows, "predicted_bytes", "measured_bytes"),
        "bytes, after two trials": errors(learned, "calibrated_bytes", "measured_bytes"),
        "bytes, by 16 per parameter (accelerate's 'training with Adam')": errors(rule, "rule", "measured_bytes"),
    }
