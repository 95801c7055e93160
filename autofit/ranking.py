"""Ranking: which configuration is fastest, by how much, on what evidence, and which one is recommended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from autofit.knobs import KNOBS, numerics_of
from autofit.measurement import Comparison, Measurement, compare, pooled
from autofit.numerics import Numerics
from autofit.outcome import Outcome
from autofit.train_config import TrainConfig
from autofit.trials import Trial

LARGEST_TIE = 0.05
"""Times closer than this, and within the noise of both, are called equal."""
NO_EVIDENCE = (Outcome.SKIPPED, Outcome.INTERRUPTED)
LARGEST_REFERENCE_MICRO_BATCH = 8
"""TrainingArguments' per_device_train_batch_size when nobody sets it."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A measured configuration in its place.

    ``against_reference`` is the reference's step over its own (how many times as fast it is), None where there is no
    reference.
    """

    rank: int
    trial: Trial
    measurement: Measurement
    numerics: tuple[Numerics, ...]
    against_reference: Comparison | None
    is_reference: bool
    tied_with_first: bool

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the reference it is."""
        return None if self.against_reference is None else self.against_reference.ratio

    @property
    def is_confirmed(self) -> bool:
        """Whether it got through a whole run, and not only through a short trial."""
        return self.trial.whole


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The measured configurations, fastest first, and the others with their reasons.

    The recommendation is the fastest that ran whole, where any did: what only a short trial says is faster comes
    before it in the order, and is not recommended.
    """

    ranked: tuple[Ranked, ...]
    failed: tuple[Trial, ...]
    reference: Trial | None

    @property
    def best(self) -> Ranked | None:
        """The recommendation: the first that is in the space that was searched, and confirmed where any is."""
        inside = [each for each in self.ranked if each.trial.role != "outside"]
        return next((each for each in inside if each.is_confirmed), next(iter(inside), None))


def rank(trials: Sequence[Trial]) -> Ranking:
    """Rank the evidence per configuration; ties inside the noise go to the more exact, then the simpler."""
    evidence = evidence_by_config(trials)
    measured = [trial for trial in evidence.values() if trial.measurement is not None]
    seconds = comparable_seconds(measured)
    measured.sort(key=lambda trial: seconds[trial.config])
    inside = [trial for trial in measured if trial.role != "outside"]
    fastest = next((trial for trial in inside if trial.whole), next(iter(inside), None))
    tied: list[Trial] = []
    if fastest is not None:
        # What has not run whole cannot take the place of what has.
        peers = [trial for trial in inside if trial.whole == fastest.whole]
        tied = [trial for trial in peers if is_tied(trial, fastest)]
        tied.sort(key=lambda trial: (_looseness(trial.config), _distance_from_reference(trial.config)))
        place = measured.index(fastest)
        rest = [trial for trial in measured if trial not in tied]
        before = [trial for trial in measured[:place] if trial not in tied]
        measured = [*before, *tied, *rest[len(before) :]]
    baselines = [trial for trial in measured if trial.role]
    reference = baselines[-1] if baselines else find_reference(measured)
    ranked = tuple(
        Ranked(
            rank=number,
            trial=trial,
            measurement=_measured(trial),
            numerics=numerics_of(trial.values),
            against_reference=None if reference is None else compare(_measured(reference), _measured(trial)),
            is_reference=trial is reference,
            tied_with_first=trial in tied,
        )
        for number, trial in enumerate(measured, start=1)
    )
    failed = tuple(trial for trial in evidence.values() if trial.measurement is None)
    return Ranking(ranked=ranked, failed=failed, reference=reference)


def evidence_by_config(trials: Iterable[Trial]) -> dict[TrainConfig, Trial]:
    """The evidence per configuration: its whole runs together where there are any, else the last trial.

    A whole run that failed, for whatever reason, says all: what did not get through its own work once is not measured,
    whatever other runs did.
    """
    evidence: dict[TrainConfig, Trial] = {}
    rounds: dict[TrainConfig, dict[int, Measurement]] = defaultdict(dict)
    for trial in trials:
        known = evidence.get(trial.config)
        if known is not None and trial.outcome in NO_EVIDENCE:
            continue
        if known is not None and known.whole and known.measurement is None:
            continue
        if trial.whole and trial.measurement is not None:
            number = len(rounds[trial.config]) if trial.round is None else trial.round
            rounds[trial.config][number] = trial.measurement
            evidence[trial.config] = replace(trial, measurement=pooled(rounds[trial.config]))
        elif known is None or trial.whole or not known.whole:
            evidence[trial.config] = trial
    return evidence


def comparable_seconds(measured: Sequence[Trial]) -> dict[TrainConfig, float]:
    """Seconds of a step of each configuration, freed of what the rounds differ by.

    Configurations that ran different rounds are compared by way of the one that ran most: its own seconds times the
    ratio over the rounds that both ran. What shares no round with it keeps its own seconds.
    """
    if not measured:
        return {}
    common = max(measured, key=lambda trial: len(_measured(trial).rounds))
    seconds = {}
    for trial in measured:
        against = compare(_measured(trial), _measured(common))
        own = _measured(trial).step_seconds
        seconds[trial.config] = against.ratio * _measured(common).step_seconds if against.rounds else own
    return seconds


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


def is_tied(trial: Trial, fastest: Trial) -> bool:
    """Whether a configuration is as fast as the fastest, as far as the noise lets it be told."""
    if trial is fastest:
        return True
    against = compare(_measured(trial), _measured(fastest))
    return against.ratio - 1 <= min(LARGEST_TIE, against.spread)


def _measured(trial: Trial) -> Measurement:
    assert trial.measurement is not None
    return trial.measurement


def _step_seconds(trial: Trial) -> float:
    return _measured(trial).step_seconds


def _looseness(config: TrainConfig) -> int:
    return sum(numerics.level for numerics in numerics_of(dict(config)))


def _distance_from_reference(config: TrainConfig) -> int:
    """How many knobs differ from their reference; precision, which every reference has to choose, not counted."""
    return sum(config[row.name] != row.reference for row in KNOBS if row.name != "precision")
