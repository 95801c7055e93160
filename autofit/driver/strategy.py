"""Decides what to try next: any Optuna sampler, asked and told through one door.

The door keeps a study of its own in memory, which holds every trial of the real one as an observation. So a search
that was killed goes on where it was, whatever the sampler; and a sampler may propose what is not valid, was tried or
is ruled out: it is told so, and asked again.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Sequence
from typing import Protocol

import optuna
from optuna.samplers import BaseSampler, GPSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from autofit.driver.history import History
from autofit.driver.observation import RUNNING, Elsewhere, Observation
from autofit.driver.parameters import STEP, config_of, distributions_of, params_of_config
from autofit.driver.prior import Predicts
from autofit.driver.sampler import AutofitSampler, NothingWorthwhileError
from autofit.driver.samplers import SAMPLERS
from autofit.driver.starts import LikelySeconds, next_start
from autofit.errors import UserError
from autofit.knobs.space import SearchSpace
from autofit.knobs.train_config import TrainConfig
from autofit.study.evidence import evidence_by_config
from autofit.study.outcome import Outcome
from autofit.trial.protocol import SLOWER_FACTOR

MOST_ASKS = 100
"""A sampler that proposes nothing new so many times in a row is replaced by chance, once."""
TOO_SLOW_OR_LARGE = math.inf


class Strategy(Protocol):
    """Decides what to try next."""

    @property
    def conclusion(self) -> str:
        """The reason that nothing was proposed, as the end of a sentence."""

    @property
    def trials_to_come(self) -> float | None:
        """About how many trials the search will still need, with the one proposed last; None where nobody can say."""

    def propose(self, history: History) -> TrainConfig | None:
        """A configuration that is neither measured nor ruled out, or None when there is nothing worth trying."""


class SamplerStrategy:
    """The reference first (``starts``), then what a sampler says."""

    def __init__(
        self, space: SearchSpace, sampler: BaseSampler, likely_seconds: LikelySeconds | None = None, seed: int = 0
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._sampler = sampler
        self._study = optuna.create_study(sampler=sampler)
        self._distributions = distributions_of(space)
        self._likely_seconds = likely_seconds
        self._told: set[TrainConfig] = set()
        self._random = random.Random(seed)
        self.conclusion = ""

    @property
    def trials_to_come(self) -> float | None:
        """As autofit's own sampler expects; the others have no end of their own."""
        return self._sampler.trials_to_come if isinstance(self._sampler, AutofitSampler) else None

    def propose(self, history: History) -> TrainConfig | None:
        start = next_start(history, self._likely_seconds)
        if start is not None or history.best is None:
            self.conclusion = "nothing that was tried fits, and nothing smaller is left"
            return start
        self._tell(history)
        for config in history.running:
            if config in self._space:
                self._add(config, Observation(outcome=RUNNING))
        for _ in range(MOST_ASKS):
            try:
                asked = self._study.ask(self._distributions)
            except NothingWorthwhileError as error:
                self.conclusion = str(error)
                return None
            config = config_of(self._space, asked.params)
            is_new = config in self._space and history.outcome(config) is None
            if config in self._space and not is_new:
                self._end(asked, None)
                self._add(config, Observation(outcome=Outcome.SKIPPED.value))
                continue
            # Told what came of it once it was run.
            self._end(asked, None if is_new else TOO_SLOW_OR_LARGE)
            if is_new:
                return config
        return self._by_chance(history)

    def _tell(self, history: History) -> None:
        best: float | None = None
        for trial in evidence_by_config(history.trials).values():
            self._add(trial.config, Observation.of(trial, best, SLOWER_FACTOR))
            if trial.measurement is not None:
                seconds = trial.measurement.step_seconds
                best = seconds if best is None else min(best, seconds)

    def _add(self, config: TrainConfig, observation: Observation) -> None:
        if config in self._told:
            return
        if observation.outcome not in (Outcome.SKIPPED, RUNNING):
            # What is skipped now may be run later, and is then told again; so is what is running when it has ended.
            self._told.add(config)
        is_known = observation.outcome != RUNNING
        value = TOO_SLOW_OR_LARGE if observation.seconds is None else observation.seconds
        self._study.add_trial(
            create_trial(
                params=params_of_config(self._space, config),
                distributions=self._distributions,
                value=value if is_known else None,
                state=TrialState.COMPLETE if is_known else TrialState.FAIL,
                user_attrs=observation.attributes(),
            )
        )

    def _end(self, asked: optuna.trial.Trial, value: float | None) -> None:
        # A grid that is used up tries to stop an optimization that there is none of.
        with contextlib.suppress(RuntimeError):
            self._study.tell(asked, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)

    def _by_chance(self, history: History) -> TrainConfig | None:
        untried = [config for config in self._space.configs if history.outcome(config) is None]
        self.conclusion = "every configuration was tried or is ruled out"
        return self._random.choice(untried) if untried else None


def make_strategy(
    name: str,
    space: SearchSpace,
    *,
    predicts: Predicts | None = None,
    likely_seconds: LikelySeconds | None = None,
    elsewhere: Sequence[Elsewhere] = (),
    seed: int = 0,
) -> SamplerStrategy:
    """The strategy of ``--sampler NAME``. Raises UserError for a name that there is not, or a package that lacks."""
    return SamplerStrategy(space, _sampler(name, space, predicts, elsewhere, seed), likely_seconds, seed)


def _sampler(
    name: str, space: SearchSpace, predicts: Predicts | None, elsewhere: Sequence[Elsewhere], seed: int
) -> BaseSampler:
    if name == "autofit":
        return AutofitSampler(space, predicts, elsewhere)
    if name == "tpe":
        return TPESampler(seed=seed)
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "grid":
        grid = {key: list(values) for key, values in space.choices.items() if len(values) > 1}
        steps = {STEP: list(range(len(space.batch_pairs)))} if len(space.batch_pairs) > 1 else {}
        return GridSampler({**grid, **steps}, seed=seed)
    if name == "gp":
        try:
            import scipy  # type: ignore[import-untyped]  # noqa: F401
        except ImportError:
            raise UserError("--sampler gp needs scipy: pip install scipy.") from None
        return GPSampler(seed=seed)
    raise UserError(f"--sampler takes {', '.join(SAMPLERS)}; not '{name}'.")
