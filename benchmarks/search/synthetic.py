"""Large spaces that no device answered: predictions of a real model, made wrong in a hidden way, with noise.

Labelled synthetic wherever they are quoted. The hidden truth of a configuration is its prediction times a device's
factor, a factor for each knob's value, one for each pair of values, a trend over the micro-batch for each value, and
one of its own. Bytes are never less than predicted: what must be alive at once is known to fractions of a percent, and
what an allocator loses adds to it. ``predict_space`` makes the files of predictions.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from dataclasses import dataclass, replace

from autofit.knobs import KNOBS
from autofit.knobs.train_config import TrainConfig
from autofit.study.measurement import Memory
from autofit.study.outcome import Outcome
from autofit.study.prediction import Prediction, Verdict
from autofit.units import GIB
from benchmarks.search.record_sweep import SWEEPS
from benchmarks.search.sweep import Answer, Row, Sweep, read_sweep

PASSES = 2
STEPS = 8
RUN_NOISE, STEP_NOISE = 0.007, 0.01
STARTING_SECONDS, COMPILING_SECONDS, OUT_OF_MEMORY_SECONDS = 3.0, 40.0, 2.5


@dataclass(frozen=True)
class Kind:
    """``knob_bias`` and ``pair_bias`` are standard deviations of the logarithms of hidden factors."""

    name: str
    predictions: str
    memory: int
    knob_bias: float
    pair_bias: float
    seed: int


def _kinds(predictions: str, *rows: tuple[str, int, float, float, int]) -> tuple[Kind, ...]:
    return tuple(
        Kind(f"synthetic-{name}", predictions, memory * GIB, knob, pair, seed)
        for name, memory, knob, pair, seed in rows
    )


TUNED_ON = _kinds("predicted-llama", ("tuned-24GiB", 24, 0.15, 0.02, 1), ("tuned-16GiB", 16, 0.10, 0.02, 2))
HELD_OUT = _kinds(
    "predicted-gpt-neox",
    ("16GiB-15%", 16, 0.15, 0.02, 11),
    ("24GiB-15%", 24, 0.15, 0.02, 12),
    ("24GiB-5%", 24, 0.05, 0.02, 13),
    ("80GiB-15%", 80, 0.15, 0.03, 14),
)


def synthetic_sweep(kind: Kind, seed: int) -> Sweep:
    """The space of a kind with a hidden truth, and answers, of their own for each seed."""
    predicted = read_sweep(SWEEPS / f"{kind.predictions}.json.gz")
    whole = predicted.situation
    memory = min(kind.memory, whole.device.memory_bytes)
    situation = replace(whole, limits=replace(whole.limits, memory_bytes=memory))
    hidden = _Hidden(kind, seed)
    usable = situation.limits.usable_bytes
    rows = []
    for row in predicted.rows:
        assert row.prediction is not None
        prediction = _with_verdict(row.prediction, row.config, usable)
        seconds = (prediction.likely_seconds or 0.0) * hidden.seconds(row.config)
        needed = round(prediction.total_bytes * hidden.bytes(row.config))
        answers = tuple(hidden.answer(row.config, seconds, needed, usable) for _ in range(PASSES))
        rows.append(Row(values=row.values, answers=answers, prediction=prediction))
    return Sweep(
        name=kind.name,
        situation=situation,
        request=predicted.request,
        rows=tuple(rows),
        about=predicted.about,
        synthetic=True,
    )


class _Hidden:
    """Factors drawn when they are first asked for, always in the same order."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self._kind = kind
        self._random = random.Random(1000 * kind.seed + seed)
        normal = self._random.gauss
        self._level = normal(0, 0.3)
        self._of_value: dict[object, float] = defaultdict(lambda: normal(0, kind.knob_bias))
        self._of_pair: dict[object, float] = defaultdict(lambda: normal(0, kind.pair_bias))
        self._trend: dict[object, float] = defaultdict(lambda: normal(0, kind.pair_bias))
        self._of_one: dict[object, float] = defaultdict(lambda: normal(0, 0.005))
        self._bytes_of_value: dict[object, float] = defaultdict(lambda: abs(normal(0, 0.01)))

    def seconds(self, config: TrainConfig) -> float:
        values = [(row.name, config[row.name]) for row in KNOBS]
        octaves = float(config.micro_batch_size).hex()
        off = self._level + self._of_one[config.key]
        off += sum(self._of_value[value] for value in values)
        off += sum(self._of_pair[pair] for pair in itertools.combinations(values, 2))
        off += sum(self._trend[value, octaves] for value in values)
        return float(2.718281828459045**off)

    def bytes(self, config: TrainConfig) -> float:
        off = sum(self._bytes_of_value[row.name, config[row.name]] for row in KNOBS)
        return float(2.718281828459045**off)

    def answer(self, config: TrainConfig, seconds: float, needed: int, usable: int) -> Answer:
        if needed > usable:
            return Answer(outcome=Outcome.OOM, reason="synthetic", wall_seconds=OUT_OF_MEMORY_SECONDS)
        run = seconds * (1 + self._random.gauss(0, RUN_NOISE))
        samples = tuple(run * (1 + self._random.gauss(0, STEP_NOISE)) for _ in range(STEPS))
        shortened = min(config.accumulation_steps, 3) / config.accumulation_steps
        wall = STARTING_SECONDS + shortened * (sum(samples) + 3 * seconds)
        wall += COMPILING_SECONDS * (config["compile"] != "off")
        memory = Memory(peak_allocated=needed, peak_reserved=needed, context=0, paged_state=0, cap=usable)
        return Answer(outcome=Outcome.OK, samples=samples, memory=memory, wall_seconds=wall)


def _with_verdict(prediction: Prediction, config: TrainConfig, usable: int) -> Prediction:
    """The verdict under this limit; the allocator is not played through here."""
    verdict = Verdict.FITS if prediction.total_bytes <= 0.97 * usable else Verdict.BORDERLINE
    is_traced = not any(row.choice(config[row.name]).not_traced for row in KNOBS)
    if prediction.certain_bytes > usable and is_traced:
        verdict = Verdict.NO
    return Prediction(
        verdict=verdict,
        bytes_by_category=prediction.bytes_by_category,
        live_bytes=prediction.live_bytes,
        total_bytes=prediction.total_bytes,
        step_seconds=prediction.step_seconds,
    )
