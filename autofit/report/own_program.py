"""Changes that a recommendation makes in a user's own program: values before and after, the command with them."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

from autofit.job.program import Program
from autofit.knobs.baseline import NEWER_NAMES, OLDER_NAMES, normalized
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting of a program, as it is and as it is recommended. ``place`` is where it is set."""

    name: str
    before: Any
    after: Any
    place: str

    def __str__(self) -> str:
        return f"{self.name}: {self.before} -> {self.after}"


ARGUMENTS, MODEL, ENVIRONMENT = "TrainingArguments", "from_pretrained", "environment"


def changes_of(program: Program, recommendation: Recommendation) -> list[Change]:
    """The settings whose values differ, in the order in which they are set."""
    settings = normalized(program.settings) | {
        "per_device_train_batch_size": program.micro_batch_size,
        "gradient_accumulation_steps": program.accumulation_steps,
    }
    found = []
    groups = (
        (ENVIRONMENT, recommendation.environment),
        (MODEL, recommendation.model_kwargs),
        (ARGUMENTS, recommendation.training_arguments),
    )
    for place, values in groups:
        for name, after in values.items():
            before = settings.get(NEWER_NAMES.get(name, name))
            if (before or None) != (after or None):
                found.append(Change(name=name, before=before, after=after, place=place))
    return found


def changed_command(program: Program, changes: list[Change]) -> str | None:
    """The program's command with the changes as flags; None where it takes no such flags.

    Flags that are there are changed, others are added.
    """
    words = list(program.command)
    has_some = _flag_place(words, "per_device_train_batch_size") is not None
    takes_flags = program.takes_flags or has_some or words[0].rsplit("/", 1)[-1] == "trl"
    if not takes_flags or any(change.place == MODEL for change in changes):
        return None
    for change in changes:
        if change.place == ENVIRONMENT:
            continue
        value = json.dumps(change.after) if isinstance(change.after, dict) else str(change.after)
        place = _flag_place(words, change.name)
        if change.name in _SWITCHES:
            words += [f"--{change.name}"]
        elif place is None:
            words += [f"--{change.name}", value]
        elif "=" in words[place]:
            words[place] = f"{words[place].partition('=')[0]}={value}"
        elif place + 1 < len(words) and not words[place + 1].startswith("--"):
            words[place + 1] = value
        else:
            words.insert(place + 1, value)
    settings = [f"{each.name}={each.after}" for each in changes if each.place == ENVIRONMENT]
    return shlex.join([*settings, *words])


_SWITCHES = ("fsdp",)
"""Flags that take no ``True``: transformers 5.23 reads any word after them as an older way of asking for FSDP."""


def recommended_changes(result: Result) -> list[Change]:
    """Of a result whose job is a program; empty where its own settings are the best."""
    program, recommendation = result.situation.program, result.recommendation
    if program is None or recommendation is None:
        return []
    return changes_of(program, recommendation)


def changes_in_a_line(result: Result) -> str:
    """Changes in a program, as a sentence's end."""
    changes = [str(change) for change in recommended_changes(result)]
    return ", ".join(changes) if changes else "your own settings: nothing faster was found"


def _flag_place(words: list[str], name: str) -> int | None:
    """Place where a command sets a TrainingArgument, by any spelling of its name.

    Of several the last one counts; what comes before the script is the launcher's.
    """
    spellings = {f"--{each}" for each in (name, OLDER_NAMES.get(name, name), NEWER_NAMES.get(name, name))}
    spellings |= {each.replace("_", "-") for each in spellings}
    scripts = [place for place, word in enumerate(words) if word.endswith(".py")][:1]
    modules = [place for place, word in enumerate(words) if word in ("-m", "--module")]
    begin = (scripts or modules or [0])[-1]
    places = [place for place in range(begin, len(words)) if words[place].partition("=")[0] in spellings]
    return places[-1] if places else None
