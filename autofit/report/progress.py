"""The progress of a planning, on stderr: one line that changes on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

from autofit.planning.progress import Progress


class ProgressLines(Progress):
    """One line for each thing; of a count its end alone."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, sentence: str) -> None:
        self._console.print(sentence, soft_wrap=True)

    def answer(self, sentence: str) -> None:
        self.say(sentence)

    def traced(self, done: int, total: int) -> None:
        if done == total:
            self.say(f"Traced {done} of {total} steps.")


class ProgressStatus(Progress):
    """Status line: progress is overwritten, answers stay on the screen."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status

    def say(self, sentence: str) -> None:
        self._status.update(sentence)

    def answer(self, sentence: str) -> None:
        self._console.print(sentence)

    def traced(self, done: int, total: int) -> None:
        self.say(f"Traced {done} of {total} steps.")


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Progress]:
    """The progress that suits stderr."""
    console = Console(stderr=True, highlight=False, markup=False)
    if quiet:
        yield Progress()
    elif not console.is_terminal:
        yield ProgressLines(console)
    else:
        with console.status("Starting") as status:
            yield ProgressStatus(console, status)
