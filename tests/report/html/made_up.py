"""A study with everything that a report can show: whole runs, short trials, failures, predictions and their work."""

from __future__ import annotations

import dataclasses

from autofit.driver.explanation import Explanation, explain
from autofit.knobs.space import SpaceRequest
from autofit.study.outcome import Outcome
from autofit.study.prediction import Prediction, StepWork, Verdict
from autofit.study.result import Result
from autofit.study.trial import Trial
from autofit.units import GIB
from tests.doubles import make_trial
from tests.export.test_training_arguments import make_result


def predicted(trial: Trial, seconds: float, needed: int) -> Trial:
    """The trial with a prediction from before it ran."""
    categories = {"weights": 0.3, "gradients": 0.15, "optimizer_state": 0.25, "activations": 0.2, "context": 0.1}
    bytes_by_category = {name: round(share * needed) for name, share in categories.items()}
    work = StepWork(
        flops=4e12,
        model_flops=3e12,
        moved_bytes=5e11,
        arithmetic_seconds=0.4 * seconds,
        traffic_seconds=0.5 * seconds,
        peaks="published",
        seconds_by_part={
            "matrix_products": 0.5 * seconds,
            "attention": 0.2 * seconds,
            "other_operators": 0.2 * seconds,
            "update": 0.05 * seconds,
            "launches": 0.05 * seconds,
        },
    )
    prediction = Prediction(
        verdict=Verdict.FITS,
        bytes_by_category=bytes_by_category,
        live_bytes=needed,
        total_bytes=sum(bytes_by_category.values()),
        step_seconds=(0.9 * seconds, 1.1 * seconds),
        work=work,
    )
    return dataclasses.replace(trial, prediction=prediction)


def made_up_trials() -> list[Trial]:
    """Short trials of several micro-batches in two precisions, failures, and three whole rounds of the fastest."""
    trials: list[Trial] = []
    speeds = {"fp32": 1.0, "bf16": 0.5}
    for precision, factor in speeds.items():
        for size in (1, 2, 4, 8, 16):
            for checkpointing, cost, memory in (("off", 1.0, 1.0), ("every_layer", 1.3, 0.4)):
                number = len(trials)
                seconds = factor * cost * (1 + 1.5 / size)
                needed = round(memory * GIB * (1 + 0.4 * size))
                changes = {
                    "precision": precision,
                    "activation_checkpointing": checkpointing,
                    "micro_batch_size": size,
                    "accumulation_steps": 32 // size,
                }
                if needed > 6 * GIB:
                    trial = make_trial(number, outcome=Outcome.OOM, reason="out of memory in backward", **changes)
                else:
                    short = make_trial(number, seconds=seconds, needed=needed, whole=False, jitter=0.02, **changes)
                    trial = predicted(short, 1.05 * seconds, round(1.02 * needed))
                trials.append(trial)
    whole = sorted((trial for trial in trials if trial.measurement), key=lambda trial: trial.measurement.step_seconds)
    for number_of_round in range(3):
        for trial in whole[:3]:
            again = make_trial(
                len(trials),
                seconds=trial.measurement.step_seconds * (1 + 0.005 * number_of_round),
                needed=trial.measurement.memory.needed,
                number_of_round=number_of_round,
                **trial.values,
            )
            trials.append(dataclasses.replace(again, prediction=trial.prediction))
    return trials


def made_up_study() -> tuple[Result, Explanation]:
    """The study's result and its explanation."""
    result = make_result(*made_up_trials())
    explanation = explain(result.situation, SpaceRequest(), result.trials)
    return dataclasses.replace(result, stopped="no other is likely to be worthwhile"), explanation
