"""The JSON document: what ``--json`` prints and ``--export json=`` writes. ``FORMAT`` counts its versions."""

from __future__ import annotations

from typing import Any

import msgspec

from autofit.knobs import numerics_of
from autofit.report.own_program import recommended_changes
from autofit.study.measurement import Measurement
from autofit.study.result import Result
from autofit.study.trial import Trial

FORMAT = 1


def document(result: Result) -> dict[str, Any]:
    """Everything a program may want of a result; keys are only ever added within a format."""
    record, recommendation = result.record, result.recommendation
    reference = result.ranking.reference
    content = {
        "format": FORMAT,
        "study": {"name": result.study, "storage": result.storage, "stopped": result.stopped},
        "workload": msgspec.to_builtins(record.workload),
        "device": msgspec.to_builtins(result.situation.device),
        "versions": dict(record.versions),
        "limits": {**msgspec.to_builtins(record.limits), "usable_bytes": result.situation.limits.usable_bytes},
        "model": msgspec.to_builtins(result.situation.model),
        "trials": [_trial(trial) for trial in result.trials],
        "ranking": [ranked.trial.number for ranked in result.ranking.ranked],
        # Over all rounds of a configuration, as the table says; a trial's own figures are one round's.
        "ranked_step_seconds": [ranked.measurement.step_seconds for ranked in result.ranking.ranked],
        "ranked_confirmed": [ranked.is_confirmed for ranked in result.ranking.ranked],
        "ranked_speedup": [
            None if ranked.against_reference is None else msgspec.to_builtins(ranked.against_reference)
            for ranked in result.ranking.ranked
        ],
        "reference": None if reference is None else reference.number,
        "recommendation": None
        if recommendation is None
        else {
            **msgspec.to_builtins(recommendation),
            "confirmed": recommendation.is_confirmed,
        },
        "run": None if result.run is None else _run(result),
        "program": _program(result),
    }
    # Tuples become lists here, as they would on the way through a file.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(content))
    return plain


def _program(result: Result) -> dict[str, Any] | None:
    """The user's own program and what to change in it; None where the job is none."""
    program = result.situation.program
    if program is None:
        return None
    changes = {each.name: [each.before, each.after] for each in recommended_changes(result)}
    return {**msgspec.to_builtins(program), "changes": changes}


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "config": dict(trial.values),
        "numerics": [numerics.label for numerics in numerics_of(trial.values)],
        "outcome": trial.outcome.value,
        "reason": trial.reason,
        "whole": trial.whole,
        "round": trial.round,
        "notes": list(trial.notes),
        "wall_seconds": trial.wall_seconds,
        "log_path": trial.log_path,
        "prediction": None if trial.prediction is None else msgspec.to_builtins(trial.prediction),
        "mfu": trial.mfu,
        "measurement": None if trial.measurement is None else _measurement(trial.measurement),
    }


def _measurement(measurement: Measurement) -> dict[str, Any]:
    return {
        "step_seconds": measurement.step_seconds,
        "uncertainty": measurement.uncertainty,
        "samples_per_second": measurement.samples_per_second,
        "tokens_per_second": measurement.tokens_per_second,
        "padding_share": measurement.padding_share,
        "peak_allocated_bytes": measurement.memory.peak_allocated,
        "peak_reserved_bytes": measurement.memory.peak_reserved,
        "needed_bytes": measurement.memory.needed,
        "samples": list(measurement.samples),
        "raw": msgspec.to_builtins(measurement),
    }


def _run(result: Result) -> dict[str, Any]:
    run, best = result.run, result.ranking.best
    assert run is not None
    steps = run.steps(result.record.workload.effective_batch)
    hours = None if best is None else steps * best.measurement.step_seconds / 3600
    gpus = result.record.workload.processes
    cost = None if hours is None or run.price_per_hour is None else hours * run.price_per_hour * gpus
    return {"samples": run.samples, "epochs": run.epochs, "steps": steps, "hours": hours, "cost": cost}
