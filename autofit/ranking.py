"""From trials to a ranking and a recommendation: who is fastest, by how much, and within what noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autofit.knobs import KNOBS, numerics_of
from autofit.measurement import Measurement, pooled, ratio_of_rounds
from autofit.numerics import Numerics
from autofit.outcome import Outcome
from autofit.train_config import TrainConfig
from autofit.trials import Trial

LARGEST_TIE = 0.05
"""Times closer than this, and within both trials' uncertainty, are called equal."""
_AGAINST = (Outcome.OOM, Outcome.INVALID)
_TELLING = (Outcome.OK, *_AGAINST)
LARGEST_REFERENCE_MICRO_BATCH = 8
"""TrainingArguments' per_device_train_batch_size when nobody sets it."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A measured configuration in its place. ``speedup`` is over the reference, None where there is none."""

    rank: int
    trial: Trial
    measurement: Measurement
    numerics: tuple[Numerics, ...]
    speedup: float | None
    is_reference: bool
    tied_with_first: bool


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The measured configurations, fastest first, and the others with their reasons."""

    ranked: tuple[Ranked, ...]
    failed: tuple[Trial, ...]
    reference: Trial | None

    @property
    def best(self) -> Ranked | None:
        """The recommendation: the first that is in the space that was searched."""
        return next((each for each in self.ranked if each.trial.role != "outside"), None)


def rank(trials: Sequence[Trial]) -> Ranking:
    """Rank the best evidence per configuration; ties inside the noise go to the more exact, then the simpler."""
    evidence = evidence_by_config(trials)
    measured = [trial for trial in evidence.values() if trial.measurement is not None]
    measured.sort(key=_step_seconds)
    fastest = next((trial for trial in measured if trial.role != "outside"), None)
    if fastest is not None:
        tied = [trial for trial in measured if trial.role != "outside" and _tied(trial, fastest)]
        tied.sort(key=lambda trial: (_looseness(trial.config), _distance_from_reference(trial.config)))
        faster = [
            trial for trial in measured if trial.role == "outside" and _step_seconds(trial) < _step_seconds(fastest)
        ]
        measured = [*faster, *tied, *(trial for trial in measured if trial not in tied and trial not in faster)]
    else:
        tied = []
    baselines = [trial for trial in measured if trial.role]
    reference = baselines[-1] if baselines else find_reference(measured)
    ranked = []
    for number, trial in enumerate(measured, start=1):
        assert trial.measurement is not None
        ranked.append(
            Ranked(
                rank=number,
                trial=trial,
                measurement=trial.measurement,
                numerics=numerics_of(trial.values),
                speedup=None if reference is None else _speedup(reference, trial),
                is_reference=trial is reference,
                tied_with_first=trial in tied,
            )
        )
    failed = tuple(trial for trial in evidence.values() if trial.measurement is None)
    return Ranking(ranked=tuple(ranked), failed=failed, reference=reference)


def evidence_by_config(trials: Sequence[Trial]) -> dict[TrainConfig, Trial]:
    """The best evidence per configuration: its runs at whole accumulation together where there are any, else the last.

    A confirmation that only took too long, or broke, says nothing against what was measured before; one that ran out
    of memory, or had a loss that is not finite, says all, whatever other runs did.
    """
    evidence: dict[TrainConfig, Trial] = {}
    rounds: dict[TrainConfig, list[Measurement]] = defaultdict(list)
    for trial in trials:
        known = evidence.get(trial.config)
        if known is not None and known.measurement is not None and trial.outcome not in _TELLING:
            continue
        if known is not None and known.whole and known.outcome in _AGAINST:
            continue
        if trial.whole and trial.measurement is not None:
            rounds[trial.config].append(trial.measurement)
            evidence[trial.config] = replace(trial, measurement=pooled(rounds[trial.config]))
        elif known is None or trial.whole or not known.whole:
            evidence[trial.config] = trial
    return evidence


def find_reference(measured: Sequence[Trial]) -> Trial | None:
    """What TrainingArguments' defaults give: the largest micro-batch up to 8 that fits, in the fastest precision.

    None where no such configuration was measured (its knobs were fixed to other values, say).
    """
    largest: dict[object, Trial] = {}
    for trial in measured:
        config = trial.config
        plain = _distance_from_reference(config) == 0
        if not plain or config.micro_batch_size > LARGEST_REFERENCE_MICRO_BATCH:
            continue
        known = largest.get(config["precision"])
        if known is None or config.micro_batch_size > known.config.micro_batch_size:
            largest[config["precision"]] = trial
    return min(largest.values(), key=_step_seconds, default=None)


def _speedup(reference: Trial, trial: Trial) -> float:
    """Over the reference in the rounds that both ran turn by turn, where there are such."""
    assert trial.measurement is not None and reference.measurement is not None
    ratio = ratio_of_rounds(reference.measurement, trial.measurement) if reference is not trial else None
    return _step_seconds(reference) / _step_seconds(trial) if ratio is None else ratio[0]


def _tied(trial: Trial, fastest: Trial) -> bool:
    assert trial.measurement is not None and fastest.measurement is not None
    ratio = ratio_of_rounds(trial.measurement, fastest.measurement)
    if ratio is not None and trial is not fastest:
        return ratio[0] - 1 <= min(LARGEST_TIE, ratio[1])
    noise = min(LARGEST_TIE, trial.measurement.uncertainty + fastest.measurement.uncertainty)
    return _step_seconds(trial) <= _step_seconds(fastest) * (1 + noise)


def _step_seconds(trial: Trial) -> float:
    assert trial.measurement is not None
    return trial.measurement.step_seconds


def _looseness(config: TrainConfig) -> int:
    return sum(numerics.level for numerics in numerics_of(dict(config)))


def _distance_from_reference(config: TrainConfig) -> int:
    """How many knobs differ from their reference; precision, which every reference has to choose, not counted."""
    return sum(config[row.name] != row.reference for row in KNOBS if row.name != "precision")
