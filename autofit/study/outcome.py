"""Outcomes of a trial. Values are only ever added: they are written into studies and exports."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """``ok`` alone is ranked; ``oom`` alone may rule out other configurations; ``interrupted`` and ``skipped`` say
    nothing about a configuration, which may be run later."""

    OK = "ok"
    OOM = "oom"
    INVALID = "invalid"
    ERROR = "error"
    UNSUPPORTED = "unsupported"
    SKIPPED = "skipped"
    SLOWER = "slower"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"

    @property
    def meaning(self) -> str:
        """A few words for the table's footer."""
        return _MEANINGS[self]


_MEANINGS = {
    Outcome.OK: "measured",
    Outcome.OOM: "out of memory",
    Outcome.INVALID: "did not train rightly",
    Outcome.ERROR: "raised an exception",
    Outcome.UNSUPPORTED: "cannot be run or judged here",
    Outcome.SKIPPED: "ruled out without running",
    Outcome.SLOWER: "stopped, surely slower than the best",
    Outcome.TIMEOUT: "hung past the time limit",
    Outcome.CRASHED: "its process died",
    Outcome.INTERRUPTED: "ended by the budget",
}
