"""Completion of commands, options and names of studies by argcomplete, which the shell runs this program for."""

from __future__ import annotations

import argparse
import os
from typing import Any

from autofit.job.record import home

ASKED = "_ARGCOMPLETE"
"""Set by argcomplete's shell function: the place, from 1, of the word with which a command's own words begin."""
STUDIES = ("study", "first", "second")
"""Arguments that name a stored study."""


def is_asked() -> bool:
    """True where the shell wants completions, and nothing else."""
    return ASKED in os.environ


def words_to_complete(subcommands: tuple[str, ...]) -> list[str]:
    """The words typed so far without the program's name; those of a subcommand are completed as its own."""
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0")) or None]
    words = line.split()[1:]
    if words and words[0] in subcommands and (len(words) > 1 or line.endswith(" ")):
        os.environ[ASKED] = "2"
    return words


def complete(parser: argparse.ArgumentParser, subcommands: tuple[str, ...]) -> None:
    """Print the completions that a parser has, and end; nothing where argcomplete is not installed."""
    try:
        import argcomplete
    except ImportError:
        return
    for action in parser._actions:
        if action.dest in STUDIES:
            action.completer = _studies  # type: ignore[attr-defined]
        elif action.dest == "model":
            action.completer = lambda prefix, **_: subcommands  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def _studies(prefix: str, **_: Any) -> list[str]:
    """Names of studies that have a folder of logs: as all have that were begun on this machine."""
    folder = home() / "logs"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
