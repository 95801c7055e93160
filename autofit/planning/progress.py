"""Progress of a plan, for whoever waits for it."""

from __future__ import annotations


class Progress:
    """Hears of a planning and does nothing; a report overrides what it shows."""

    def say(self, sentence: str) -> None:
        """Something that is going on."""

    def answer(self, sentence: str) -> None:
        """Something that is known already, and worth keeping in sight."""

    def traced(self, done: int, total: int) -> None:
        """So many steps of so many are traced."""
