"""Sentences about what is going on, on stderr: one line that changes on a terminal, lines elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console


def _is_counting(sentence: str) -> bool:
    """Of a count only its end is worth a line of its own."""
    match = re.match(r"Traced (\d+) of (\d+)", sentence)
    return match is not None and match[1] != match[2]


@contextmanager
def announcer(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Something to call with a sentence."""
    console = Console(stderr=True, highlight=False, markup=False)
    if quiet:
        yield lambda sentence: None
    elif not console.is_terminal:
        yield lambda sentence: None if _is_counting(sentence) else console.print(sentence, soft_wrap=True)
    else:
        with console.status("Starting") as status:

            def say(sentence: str) -> None:
                # Answers stay on the screen; what is merely going on is overwritten.
                if sentence.startswith("First answer"):
                    console.print(sentence)
                else:
                    status.update(sentence)

            yield say
