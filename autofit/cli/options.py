"""Options that several commands share. Imports nothing heavy: ``--help`` answers at once."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse, with one line instead of the whole usage when something is wrong."""

    def error(self, message: str) -> NoReturn:
        print(f"autofit: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """``--storage``, ``--debug``."""
    parser.add_argument("--storage", metavar="URL", help="where studies are kept (default: a file in ~/.autofit)")
    parser.add_argument("--debug", action="store_true", help="show a trace when something breaks")


def positive_number(text: str) -> float:
    """An argparse type."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above zero, not {text}")
    return value


def whole_number(text: str) -> int:
    """An argparse type: 1 or more."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not '{text}'") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value
