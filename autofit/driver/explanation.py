"""Explanation of a recommendation: each configuration one knob away, and what other memory would change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from autofit.driver.encoding import EncodedSpace
from autofit.driver.observation import Observation
from autofit.driver.sampler import AutofitSampler
from autofit.errors import UserError
from autofit.job.situation import Situation
from autofit.knobs import KNOBS
from autofit.knobs.space import Because, Refusal, SearchSpace, SpaceRequest
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.study.evidence import Evidence
from autofit.study.outcome import Outcome
from autofit.study.prediction import Expected
from autofit.study.ranking import Ranked, rank
from autofit.study.trial import Trial

LESS_MEMORY = 0.9
MOST_SPREAD = 0.3
"""An estimate whose interval is wider than this says nothing."""
MICRO_BATCH = "micro_batch_size"


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """The recommendation with one knob changed.

    ``slower`` is how much longer a step takes, as a share, and ``more_bytes`` how much more it needs; ``spread`` is
    what it may be off by: half of what rounds differ by, else half the 95 % interval. ``basis`` is ``measured``
    (``reason`` says in how many interleaved rounds, or that it was in short trials),
    ``estimated`` (from the trials of others, by the additive model of ``surrogate``), ``predicted`` (before any trial),
    ``unknown``, ``ruled out``, ``not valid``, or the outcome where it was tried and did not run. ``reason`` says why.
    """

    knob: str
    value: KnobValue
    basis: str
    slower: float | None = None
    spread: float | None = None
    more_bytes: int | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class OtherMemory:
    """Recommendation with less memory, among what was measured. None where nothing measured would fit."""

    usable_bytes: int
    trial: Trial | None
    slower: float | None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """``settled`` are the knobs with one value left, ``refusals`` the values that are not searched."""

    best: Ranked
    neighbours: tuple[Neighbour, ...]
    refusals: tuple[Refusal, ...]
    settled: tuple[tuple[str, KnobValue], ...]
    less_memory: OtherMemory
    num_configs: int
    num_tried: int

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        plain: dict[str, Any] = msgspec.json.decode(
            msgspec.json.encode(
                {
                    "format": 2,
                    "recommendation": dict(self.best.trial.values),
                    "neighbours": self.neighbours,
                    "refused": self.refusals,
                    "settled": dict(self.settled),
                    "with_less_memory": {
                        "usable_bytes": self.less_memory.usable_bytes,
                        "config": None if self.less_memory.trial is None else dict(self.less_memory.trial.values),
                        "slower": self.less_memory.slower,
                    },
                    "configurations": self.num_configs,
                    "tried": self.num_tried,
                }
            )
        )
        return plain


def neighbours_of(space: SearchSpace, config: TrainConfig) -> list[TrainConfig]:
    """The configurations of a space that differ from one in one knob, or by one step of the micro-batch."""
    return [each for _, _, each in _one_knob_away(space, config) if each in space]


def _one_knob_away(space: SearchSpace, config: TrainConfig) -> Iterator[tuple[str, KnobValue, TrainConfig]]:
    """Knob, value and the configuration with it, those that are not in the space included."""
    sizes = space.micro_batch_sizes
    place = sizes.index(config.micro_batch_size)
    for near in (place - 1, place + 1):
        if 0 <= near < len(sizes):
            yield MICRO_BATCH, sizes[near], space.at_micro_batch(config, sizes[near])
    for row in KNOBS:
        for value in space.choices[row.name]:
            if value != config[row.name]:
                yield row.name, value, config.replace(**{row.name: value})


def explain(
    situation: Situation,
    request: SpaceRequest,
    trials: Sequence[Trial],
    predicted: dict[TrainConfig, Expected] | None = None,
) -> Explanation:
    """Explain the recommendation of ``trials`` in a space; ``predicted`` stands in where the trials do not tell.

    Raises UserError where nothing was measured.
    """
    space = SearchSpace(situation, request)
    best = rank(trials).best
    if best is None:
        raise UserError("Nothing was measured in this study yet, so there is nothing to explain.")
    if best.trial.config not in space:
        raise UserError("The recommendation is not in the space of the last search; run that search again first.")
    evidence = Evidence(trial for trial in trials if trial.config in space)
    refusals = [each for each in space.refusals if each.because is not Because.NOT_INSTALLED]
    settled = [row for row in KNOBS if len(space.choices[row.name]) == 1 and row.why_not_asked(situation) is None]
    return Explanation(
        best=best,
        neighbours=tuple(_neighbours(space, best, evidence, predicted or {})),
        refusals=tuple(refusals),
        settled=tuple((row.name, space.choices[row.name][0]) for row in settled),
        less_memory=_with_less_memory(situation, trials, best),
        num_configs=len(space),
        num_tried=sum(trial.outcome is not Outcome.SKIPPED for trial in evidence.by_config.values()),
    )


def _neighbours(
    space: SearchSpace, best: Ranked, evidence: Evidence, predicted: dict[TrainConfig, Expected]
) -> Iterator[Neighbour]:
    estimates = _Estimates(space, evidence, predicted)
    for knob, value, config in _one_knob_away(space, best.trial.config):
        if knob == MICRO_BATCH or config in space:
            yield _neighbour(knob, value, config, best, evidence, estimates)
        else:
            reason = "; ".join(space.reasons_against(config))
            yield Neighbour(knob=knob, value=value, basis="not valid", reason=reason)


def _neighbour(
    knob: str,
    value: KnobValue,
    config: TrainConfig,
    best: Ranked,
    evidence: Evidence,
    estimates: _Estimates,
) -> Neighbour:
    trial = evidence.by_config.get(config)
    if trial is not None and trial.measurement is not None:
        against = evidence.against(trial, best.trial)
        return Neighbour(
            knob=knob,
            value=value,
            basis="measured",
            slower=against.ratio - 1,
            spread=against.spread if math.isfinite(against.spread) else None,
            more_bytes=trial.measurement.memory.needed - best.measurement.memory.needed,
            reason=against.label,
        )
    if trial is not None:
        return Neighbour(knob=knob, value=value, basis=trial.outcome.value, reason=trial.reason)
    return _estimated_neighbour(knob, value, config, best, estimates)


def _estimated_neighbour(
    knob: str, value: KnobValue, config: TrainConfig, best: Ranked, estimates: _Estimates
) -> Neighbour:
    """One that was not tried: by what rules it out, by trials like it where they tell enough, else as predicted."""
    slower, spread, more = estimates.against(config, best.trial.config)
    larger = estimates.ruled_out_by(config)
    if larger is not None:
        return Neighbour(
            knob=knob,
            value=value,
            basis="ruled out",
            slower=slower,
            spread=spread,
            reason=f"trial {larger.number}, which needs no more, ran out of memory",
        )
    if spread <= MOST_SPREAD:
        return Neighbour(
            knob=knob,
            value=value,
            basis="estimated",
            slower=slower,
            spread=spread,
            more_bytes=round(best.measurement.memory.needed * (math.exp(more) - 1)),
        )
    expected, expected_best = (estimates.predicted.get(each) for each in (config, best.trial.config))
    # Traces do not tell what loading costs.
    tells_nothing = any(row.name == knob and row.is_of_programs for row in KNOBS)
    if expected is None or expected_best is None or tells_nothing:
        return Neighbour(knob=knob, value=value, basis="unknown", reason="the trials so far do not tell")
    return Neighbour(
        knob=knob,
        value=value,
        basis="predicted",
        slower=expected.seconds / expected_best.seconds - 1,
        more_bytes=expected.total_bytes - expected_best.total_bytes,
    )


class _Estimates:
    """Estimates of configurations that were not run, from the trials."""

    def __init__(self, space: SearchSpace, evidence: Evidence, predicted: dict[TrainConfig, Expected]) -> None:
        self._space = space
        self.predicted = predicted
        self._evidence = evidence.by_config
        self._encoded = EncodedSpace(space)
        observations = {
            self._encoded.place(config): Observation.of(trial, None, 1.0)
            for config, trial in evidence.by_config.items()
        }
        sampler = AutofitSampler(space)
        self._seconds = sampler.log_seconds(observations)
        self._bytes = sampler.log_bytes(observations)

    def against(self, config: TrainConfig, best: TrainConfig) -> tuple[float, float, float]:
        """Share by which a step is slower, half the 95 % interval of that, and the difference of log bytes."""
        place, ours = self._encoded.place(config), self._encoded.place(best)
        behind = float(self._seconds.mean[place] - self._seconds.mean[ours])
        spread = 2 * float(self._seconds.deviation[place])
        return math.exp(behind) - 1, math.exp(behind) * spread, float(self._bytes.mean[place] - self._bytes.mean[ours])

    def ruled_out_by(self, config: TrainConfig) -> Trial | None:
        """The out-of-memory that rules a configuration out."""
        failed = [other for other, trial in self._evidence.items() if trial.outcome is Outcome.OOM]
        by = self._space.ruled_out_by(config, failed)
        return None if by is None else self._evidence[by]


def _with_less_memory(situation: Situation, trials: Sequence[Trial], best: Ranked) -> OtherMemory:
    usable = round(situation.limits.usable_bytes * LESS_MEMORY)
    ranking = rank(trials)
    ranked = [each for each in ranking.ranked if not each.trial.is_outside]
    ranked.sort(key=lambda each: not each.is_confirmed)
    fitting = next((each for each in ranked if each.measurement.memory.needed <= usable), None)
    slower = None
    if fitting is not None:
        slower = ranking.evidence.against(fitting.trial, best.trial).ratio - 1
    return OtherMemory(usable_bytes=usable, trial=None if fitting is None else fitting.trial, slower=slower)
