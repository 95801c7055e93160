"""The view while a search runs, on stderr: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from autofit.driver.observer import Observer
from autofit.job.situation import Situation
from autofit.knobs.train_config import TrainConfig
from autofit.report.text import count_trials, describe
from autofit.study.ranking import rank
from autofit.study.trial import Trial
from autofit.units import counted, format_bytes, format_rate, format_roughly, format_seconds

LAST_TRIALS = 6


class Watcher(Observer):
    """Remembers the study's name, and how the search stands.

    ``check`` is asked before anything is measured, and may raise UserError.
    """

    study: str | None = None

    def __init__(self) -> None:
        self.check: Callable[[Situation], None] = lambda situation: None
        self.trials: list[Trial] = []
        self.num_configs = 0
        self.seconds_left: float | None = None
        self.expected_end: float | None = None
        self.began = time.monotonic()

    def opened(
        self,
        study: str,
        storage: str,
        situation: Situation,
        num_configs: int,
        trials: Sequence[Trial],
        seconds_left: float | None,
    ) -> None:
        self.check(situation)
        self.study = study
        self.trials = list(trials)
        self.num_configs = num_configs
        self.seconds_left = seconds_left
        known = f"; {count_trials(trials)} before" if trials else ""
        self.say(f"Study {study}: {num_configs} configurations{known}.")
        self.trials_changed()

    def expects(self, seconds: float) -> None:
        self.expected_end = time.monotonic() + seconds

    def ended(self, trial: Trial, trials: Sequence[Trial]) -> None:
        self.trials = list(trials)
        self.trials_changed()

    def trials_changed(self) -> None:
        """Called when ``trials`` has become another list."""


class PlainLines(Watcher):
    """One line for each thing that happens."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def ended(self, trial: Trial, trials: Sequence[Trial]) -> None:
        super().ended(trial, trials)
        self._console.print(trial_line(trial), soft_wrap=True)

    def say(self, sentence: str) -> None:
        self._console.print(sentence, soft_wrap=True)


class LivePanel(Watcher):
    """Panel with what is running, the best so far, the last trials, and the time."""

    def __init__(self) -> None:
        super().__init__()
        self._running: dict[int, tuple[TrainConfig, bool, float]] = {}
        self._spinners: dict[int, Spinner] = {}
        self._standing: list[RenderableType] = []

    def begun(self, number: int, config: TrainConfig, *, whole: bool) -> None:
        self._running[number] = (config, whole, time.monotonic())

    def ended(self, trial: Trial, trials: Sequence[Trial]) -> None:
        super().ended(trial, trials)
        self._forget(trial.number)

    def lost(self, number: int) -> None:
        self._forget(number)

    def _forget(self, number: int) -> None:
        self._running.pop(number, None)
        self._spinners.pop(number, None)

    def standing(self, *, is_moving: bool) -> RenderableType:
        """The panel now; one that is not drawn again and again has no seconds that go on and nothing that turns."""
        parts: list[RenderableType] = [self._progress(), *self._standing]
        for number, (config, whole, began) in list(self._running.items()):
            doing = "running whole" if whole else "running"
            if is_moving:
                spinner = self._spinners.setdefault(number, Spinner("dots"))
                spinner.update(text=Text(f"{doing} {time.monotonic() - began:.0f} s: {describe(config)}"))
                parts.append(spinner)
            else:
                parts.append(Text(f"{doing}: {describe(config)}"))
        return Group(*parts)

    def trials_changed(self) -> None:
        """Make the last trials and the best now, and not while a trial is being timed beside us."""
        lines: list[RenderableType] = [
            Text(trial_line(trial), style="dim", no_wrap=True, overflow="ellipsis")
            for trial in self.trials[-LAST_TRIALS:]
        ]
        ranking = rank(self.trials)
        if ranking.best is not None:
            lines.append(Text(f"best so far: {_best_line(ranking.best.trial)}", style="bold"))
        self._standing = lines

    def _progress(self) -> RenderableType:
        now = time.monotonic()
        spent = now - self.began
        line = Table.grid(padding=(0, 1))
        count = Text(f"{counted(len(self.trials), 'trial')}, {format_seconds(spent)}")
        budgeted = None if self.seconds_left is None else max(0.0, self.seconds_left - spent)
        expected = None if self.expected_end is None else max(0.0, self.expected_end - now)
        words = []
        if expected is not None and (budgeted is None or expected < budgeted):
            words.append(f"about {format_roughly(expected)}")
        if budgeted is not None:
            words.append(f"at most {format_seconds(budgeted)}")
        if not words:
            line.add_row(count)
        else:
            left = min(each for each in (budgeted, expected) if each is not None)
            bar = ProgressBar(total=spent + left, completed=spent, width=20)
            line.add_row(count, bar, Text(f"{', '.join(words)} left"))
        return line


class TerminalPanel(LivePanel):
    """The panel at the foot of a terminal, with what is said above it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def say(self, sentence: str) -> None:
        self._console.print(sentence, style="dim")

    def __rich__(self) -> RenderableType:
        return self.standing(is_moving=True)


@contextmanager
def watch(*, quiet: bool) -> Iterator[Watcher]:
    """The watcher that suits stderr."""
    console = Console(stderr=True, highlight=False, markup=False)
    if quiet:
        yield Watcher()
    elif not console.is_terminal:
        yield PlainLines(Console(file=sys.stderr, highlight=False, markup=False, no_color=True))
    else:
        panel = TerminalPanel(console)
        with Live(panel, console=console, refresh_per_second=4, transient=True):
            yield panel


def trial_line(trial: Trial) -> str:
    """One trial in a line."""
    kind = "confirmed" if trial.whole else trial.outcome.value
    if trial.measurement is None:
        return f"[{trial.number}] {trial.outcome.value}: {describe(trial.config)}: {trial.reason}"
    return f"[{trial.number}] {kind}: {_best_line(trial)}"


def _best_line(trial: Trial) -> str:
    measurement = trial.measurement
    assert measurement is not None
    return (
        f"{format_seconds(measurement.step_seconds)} a step, {format_rate(measurement.samples_per_second)} samples/s, "
        f"{format_bytes(measurement.memory.needed)}: {describe(trial.config)}"
    )
