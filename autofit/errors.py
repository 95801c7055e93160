"""Errors that a user can meet, each with one sentence and an exit code.

A trial that fails is not an error: it is a row (see ``outcome.py``).
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Text of others (names, logs) without what would move a terminal's cursor or change its colours."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


class AutofitError(Exception):
    """A sentence for the user, with the remedy in it, and the exit code the command ends with."""

    exit_code = 1


class UserError(AutofitError, ValueError):
    """The request cannot be carried out as it was written."""

    exit_code = 2


class NothingFitsError(AutofitError):
    """Every configuration that was tried failed; the sentence says what would make one fit."""

    exit_code = 3
