"""The trials so far, as a strategy asks about them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

from autofit.knobs.space import SearchSpace
from autofit.knobs.train_config import TrainConfig
from autofit.study.evidence import NO_EVIDENCE, evidence_by_config
from autofit.study.outcome import Outcome
from autofit.study.trial import Trial


class History:
    """The trials of a study that were run and lie in a space. Immutable: a new trial makes a new history.

    ``put_off`` are configurations that are not to be proposed now; ``ruled_out`` those that are predicted not to fit;
    ``running`` those whose trials have not ended.
    What an earlier search skipped counts for nothing: this one may predict otherwise, or not at all. Nor does a trial
    that the end of a budget interrupted.
    """

    def __init__(
        self,
        space: SearchSpace,
        trials: Sequence[Trial],
        put_off: Collection[TrainConfig] = (),
        ruled_out: Collection[TrainConfig] = (),
        running: Collection[TrainConfig] = (),
    ) -> None:
        self.space = space
        self.running = running
        self._put_off = put_off
        self._ruled_out = ruled_out
        self.trials = tuple(trial for trial in trials if trial.outcome not in NO_EVIDENCE and trial.config in space)
        self._evidence = evidence_by_config(self.trials)

    def outcome(self, config: TrainConfig) -> Outcome | None:
        """Outcome of a configuration, or None where nothing is known.

        ``skipped`` where an out-of-memory rules it out, where there is no time left for it, and while it runs.
        """
        trial = self._evidence.get(config)
        if trial is not None:
            return trial.outcome
        if config in self._put_off or config in self._ruled_out or config in self.running:
            return Outcome.SKIPPED
        ruled_out = self.space.ruled_out_by(config, self.out_of_memory)
        return None if ruled_out is None else Outcome.SKIPPED

    def step_seconds(self, config: TrainConfig) -> float | None:
        """Measured seconds per optimizer step, or None."""
        trial = self._evidence.get(config)
        return None if trial is None or trial.measurement is None else trial.measurement.step_seconds

    @cached_property
    def out_of_memory(self) -> tuple[TrainConfig, ...]:
        """Configurations that ran out of memory."""
        return tuple(config for config, trial in self._evidence.items() if trial.outcome is Outcome.OOM)

    @cached_property
    def best(self) -> Trial | None:
        """The fastest measured trial."""
        ranking = [(self.step_seconds(config), trial) for config, trial in self._evidence.items()]
        measured = [(seconds, trial) for seconds, trial in ranking if seconds is not None]
        return min(measured, key=lambda pair: pair[0])[1] if measured else None

    @property
    def best_seconds(self) -> float | None:
        """Its seconds per optimizer step."""
        return None if self.best is None or self.best.measurement is None else self.best.measurement.step_seconds

    def is_too_large(self, config: TrainConfig) -> bool:
        """True if it ran out of memory, or is ruled out by one that did."""
        is_open = config in self._put_off or config in self.running
        return not is_open and self.outcome(config) in (Outcome.OOM, Outcome.SKIPPED)
