"""Measure every configuration of a job's space, in random order, and go on where an earlier run stopped.

Answers are appended to a file of lines as they come, so nothing is lost when the time is up. The order is random, so
that a part of a sweep is a fair part.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from autofit.driver.workers import Workers
from autofit.job.request import JobRequest
from autofit.job.situation import Limits, Situation
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import TrainConfig
from autofit.predict.micro_batches import CannotPredictError
from autofit.predict.predictor import Predictor
from autofit.study.measurement import Measurement
from autofit.study.outcome import Outcome
from autofit.study.prediction import Prediction
from autofit.study.trial import RunResult
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import ProcessRunner
from benchmarks.record import measuring_seconds
from benchmarks.search.sweep import Answer, Row, Sweep

PLAN = MeasuringPlan(patience_seconds=1.0)
MOST_SECONDS = 300.0


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One answer in the file. ``overhead_seconds`` is what the trial took beyond its warm-up and timed steps."""

    pass_number: int
    key: str
    answer: Answer
    overhead_seconds: float = 0.0


class Recorder:
    """One sweep. ``job`` is what ``autofit.search`` takes of the training job, ``wanted`` of the space.

    ``folder`` keeps the answers (``NAME.jsonl``), logs and traces. To be closed.
    """

    def __init__(self, name: str, job: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path, passes: int) -> None:
        self.name = name
        self._passes = passes
        self._record = JobRequest(**job).record()
        self._request = SpaceRequest.of(**{"numerics": "standard", **wanted})
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{name}.jsonl"
        self._workers = Workers(self._record, folder / "jobs", folder / "traces", print, most_seconds=MOST_SECONDS)
        self.situation: Situation = self._workers.probe()
        self.space = SearchSpace(self.situation, self._request)
        decode = msgspec.json.Decoder(Line).decode
        text = self._path.read_bytes() if self._path.exists() else b""
        # What a killed run left half written has no newline behind it.
        self._lines = [decode(line) for line in text.split(b"\n")[:-1]]

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._workers.close()

    def run(self, deadline: float, configs: Iterable[TrainConfig] | None = None) -> bool:
        """Measure what is missing, of all or of ``configs``, until this moment of ``time.monotonic``; whether all is
        there."""
        done = {(line.pass_number, line.key) for line in self._lines}
        chosen = list(self.space.configs if configs is None else configs)
        runner: ProcessRunner | None = None
        for number in range(self._passes):
            random.Random(number).shuffle(chosen)
            for config in chosen:
                if (number, config.key) in done:
                    continue
                if time.monotonic() > deadline:
                    return False
                runner = runner or self._workers.runner(self.situation)
                self._keep(number, config, runner.run(recipe_for(config, self.situation), PLAN, "sweep"))
        return True

    def answers(self) -> dict[TrainConfig, tuple[Answer, ...]]:
        """Answers so far, pass by pass."""
        by_key: dict[str, list[Answer]] = {}
        for line in self._lines:
            by_key.setdefault(line.key, []).append(line.answer)
        return {config: tuple(by_key[config.key]) for config in self.space.configs if config.key in by_key}

    def overheads(self) -> list[float]:
        """Of the trials that ran to their end, seconds."""
        return [line.overhead_seconds for line in self._lines if line.answer.outcome is Outcome.OK]

    def predictions(self, limits: Limits | None = None) -> dict[TrainConfig, Prediction | None]:
        """Predictions before anything was measured, on this device under these limits."""
        situation = self.situation if limits is None else replace(self.situation, limits=limits)
        predictor = self._workers.predictor(situation)
        predictor.prepare(self.space.configs)
        return {config: _predicted(predictor, config) for config in self.space.configs}

    def sweep(self, about: dict[str, Any]) -> Sweep:
        """The whole of it. Raises KeyError where answers are missing."""
        answers, predictions = self.answers(), self.predictions()
        return Sweep(
            name=self.name,
            situation=self.situation,
            request=msgspec.to_builtins(self._request),
            rows=tuple(
                Row(values=dict(config), answers=answers[config], prediction=predictions[config])
                for config in self.space.configs
            ),
            about=about,
        )

    def _keep(self, number: int, config: TrainConfig, result: RunResult) -> None:
        measurement = result.measurement
        measuring = 0.0 if measurement is None else measuring_seconds(measurement)
        line = Line(
            pass_number=number,
            key=config.key,
            answer=answer_of(result),
            overhead_seconds=result.wall_seconds - measuring,
        )
        self._lines.append(line)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


def answer_of(result: RunResult) -> Answer:
    """The part of a run that is kept."""
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
