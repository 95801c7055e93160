"""Other tools, as strategies over a replay: each with its own rules, as their sources have them.

All begin from TrainingArguments' defaults and keep the effective batch by accumulation, which most of them do not do.
"""

from __future__ import annotations

from collections.abc import Iterator

from autofit.driver.history import History
from autofit.driver.starts import reference_configs
from autofit.knobs import KNOBS
from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome


class Peer:
    """A list of steps that looks at the history between them. ``choose`` is what the tool would end with."""

    name = ""
    conclusion = "its rules are at their end"
    trials_to_come = None

    def propose(self, history: History) -> TrainConfig | None:
        return next((config for config in self.steps(history) if history.outcome(config) is None), None)

    def steps(self, history: History) -> Iterator[TrainConfig]:
        """Configurations that it runs in order, as far as the history goes."""
        raise NotImplementedError

    def choose(self, history: History) -> TrainConfig | None:
        """The fastest it measured."""
        return None if history.best is None else history.best.config


class HalveOnOutOfMemory(Peer):
    """accelerate's ``find_executable_batch_size``, Composer's ``auto``: the whole batch at once, halved until it runs.

    The first that runs is kept, whatever its speed.
    """

    name = "halve on OOM (accelerate, Composer)"

    def steps(self, history: History) -> Iterator[TrainConfig]:
        base = reference_configs(history.space)[0]
        wanted = float(history.space.micro_batch_sizes[-1])
        while wanted >= history.space.micro_batch_sizes[0]:
            size = max(size for size in history.space.micro_batch_sizes if size <= wanted)
            config = history.space.at_micro_batch(base, size)
            yield config
            if not _is_too_large(history, config):
                return
            wanted = size / 2


class PowerThenBisect(Peer):
    """Lightning's ``scale_batch_size(mode="binsearch")``: doubled from 2 until it fails, bisected; the largest wins."""

    name = "power, then bisect (Lightning)"

    def steps(self, history: History) -> Iterator[TrainConfig]:
        base, sizes = reference_configs(history.space)[0], history.space.micro_batch_sizes
        fits, fails = None, None
        place = min(1, len(sizes) - 1)
        while fails is None:
            config = history.space.at_micro_batch(base, sizes[place])
            yield config
            if _is_too_large(history, config):
                fails = place
            else:
                fits = place
                following = [n for n, size in enumerate(sizes) if size >= 2 * sizes[place]]
                if not following:
                    return
                place = following[0]
        low = -1 if fits is None else fits
        while fails - low > 1:
            middle = (fails + low) // 2
            config = history.space.at_micro_batch(base, sizes[middle])
            yield config
            if _is_too_large(history, config):
                fails = middle
            else:
                low = middle

    def choose(self, history: History) -> TrainConfig | None:
        ran = [trial.config for trial in history.trials if trial.outcome is Outcome.OK]
        return max(ran, key=lambda config: config.micro_batch_size, default=None)


class MicroBatchProbing(Peer):
    """DeepSpeed's autotuner at one ZeRO stage: micro-batches doubled while throughput rises, the fastest wins."""

    name = "micro-batch probing (DeepSpeed)"

    def steps(self, history: History) -> Iterator[TrainConfig]:
        base = reference_configs(history.space)[0]
        last = None
        for size in history.space.micro_batch_sizes:
            config = history.space.at_micro_batch(base, size)
            yield config
            seconds = history.step_seconds(config)
            if seconds is None or (last is not None and seconds > last):
                return
            last = seconds


class StagedGreedy(Peer):
    """pytorch-autotune: the micro-batch first, then one knob after another, each kept where it is faster."""

    name = "staged greedy (pytorch-autotune)"

    def steps(self, history: History) -> Iterator[TrainConfig]:
        space = history.space
        best = reference_configs(space)[0]
        for config in [space.at_micro_batch(best, size) for size in space.micro_batch_sizes]:
            yield config
            best = _faster(history, best, config)
            if _is_too_large(history, config):
                break
        for row in KNOBS:
            for value in space.choices[row.name]:
                config = best.replace(**{row.name: value})
                if config != best and config in space:
                    yield config
                    best = _faster(history, best, config)


PEERS = (HalveOnOutOfMemory, PowerThenBisect, MicroBatchProbing, StagedGreedy)


def _is_too_large(history: History, config: TrainConfig) -> bool:
    return history.outcome(config) not in (None, Outcome.OK)


def _faster(history: History, best: TrainConfig, config: TrainConfig) -> TrainConfig:
    before, now = history.step_seconds(best), history.step_seconds(config)
    return config if now is not None and (before is None or now < before) else best
