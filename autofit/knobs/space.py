"""The search space: every configuration that is valid for a situation, and the orders known within it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from autofit.errors import UserError
from autofit.job.situation import Situation
from autofit.knobs import BATCH_KNOBS, KNOBS, Choice, Knob
from autofit.knobs.constraints import constraints_on
from autofit.knobs.numerics import NUMERICS_LEVELS
from autofit.knobs.own_program import refused_by_program, value_of
from autofit.knobs.train_config import KnobValue, TrainConfig


def why_unavailable(row: Knob, choice: Choice, situation: Situation) -> str | None:
    """Reason that a choice cannot be had here, or in the program that is searched; None where it can."""
    not_asked = row.why_not_asked(situation)
    if not_asked is not None and choice.value != row.reference and not _is_programs(situation, row, choice.value):
        return not_asked
    if situation.program is None:
        return choice.unavailable(situation)
    # What it trains with now can be had, whatever is known about it.
    reason = None if _is_programs(situation, row, choice.value) else choice.unavailable(situation)
    return reason or refused_by_program(situation.program, row, choice)


def _is_programs(situation: Situation, row: Knob, value: KnobValue) -> bool:
    """True for what a user's own program trains with now."""
    return situation.program is not None and value_of(situation.program, row) == value


class Because(StrEnum):
    """Cause for which a choice is not searched.

    ``unavailable`` is the machine or the job, ``not_installed`` a package, ``request`` a value that was fixed or
    forbidden, ``numerics`` its level, ``program`` the user's own program.
    """

    UNAVAILABLE = "unavailable"
    NOT_INSTALLED = "not_installed"
    REQUEST = "request"
    NUMERICS = "numerics"
    PROGRAM = "program"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A choice that is not searched, the cause, and the sentence's end that says why."""

    knob: str
    value: KnobValue
    because: Because
    reason: str

    def __str__(self) -> str:
        return f"{self.value}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class SpaceRequest:
    """Part of the space that a user wants: a numerics level, and values fixed, allowed or forbidden.

    Each mapping goes from a knob's name to the values named on the command line, as they were typed.
    """

    numerics: str = "standard"
    fix: dict[str, str] = field(default_factory=dict)
    allow: dict[str, tuple[str, ...]] = field(default_factory=dict)
    forbid: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        numerics: str,
        fix: Mapping[str, KnobValue] | None = None,
        allow: Mapping[str, Sequence[KnobValue]] | None = None,
        forbid: Mapping[str, Sequence[KnobValue]] | None = None,
    ) -> SpaceRequest:
        """The request of values as Python has them. Raises UserError for a knob or value that there is not."""
        return cls(
            numerics=numerics,
            fix={name: str(value) for name, value in (fix or {}).items()},
            allow={name: tuple(map(str, values)) for name, values in (allow or {}).items()},
            forbid={name: tuple(map(str, values)) for name, values in (forbid or {}).items()},
        )

    def __post_init__(self) -> None:
        if self.numerics not in NUMERICS_LEVELS:
            raise UserError(f"--numerics takes {', '.join(NUMERICS_LEVELS)}; not '{self.numerics}'.")
        rows = {row.name: row for row in KNOBS}
        named = [*((name, (value,)) for name, value in self.fix.items()), *self.allow.items(), *self.forbid.items()]
        for name, values in named:
            if name in BATCH_KNOBS:
                continue
            if name not in rows:
                raise UserError(f"There is no knob '{name}'; the knobs are {', '.join([*BATCH_KNOBS, *rows])}.")
            known = [str(choice.value) for choice in rows[name].choices]
            for value in values:
                if value not in known:
                    raise UserError(f"{name} has no value '{value}'; it takes {', '.join(known)}.")


class SearchSpace:
    """All valid configurations of a situation under a request, and the refused choices with reasons.

    Raises UserError where the request leaves nothing.
    """

    def __init__(self, situation: Situation, request: SpaceRequest) -> None:
        self.situation = situation
        self.request = request
        self.refusals: list[Refusal] = []
        self._constraints = constraints_on(situation)
        self.choices: dict[str, tuple[KnobValue, ...]] = {}
        for row in KNOBS:
            self.choices[row.name] = self._decided_by_program(row) or tuple(
                choice.value for choice in row.choices if self._admits(row, choice)
            )
            if not self.choices[row.name]:
                raise UserError(self._why_none_is_left(row))
        self.batch_pairs = self._batch_pairs()

    @cached_property
    def combinations(self) -> tuple[tuple[KnobValue, ...], ...]:
        """Values of all knobs but the batch split, in the order of ``choices``. Raises UserError where none is left."""
        found = []
        broken: set[str] = set()
        for values in itertools.product(*self.choices.values()):
            reasons = self.reasons_against(dict(zip(self.choices, values, strict=True)))
            broken.update(reasons)
            if not reasons:
                found.append(values)
        if not found:
            raise UserError(f"No configuration is left: {'; '.join(sorted(broken))}. Loosen --fix or --forbid.")
        return tuple(found)

    @cached_property
    def configs(self) -> tuple[TrainConfig, ...]:
        """Every configuration. There can be tens of thousands: ask with ``in`` and ``len`` where that will do."""
        return tuple(
            TrainConfig(
                {
                    "micro_batch_size": micro_batch_size,
                    "accumulation_steps": accumulation_steps,
                    **dict(zip(self.choices, values, strict=True)),
                }
            )
            for values in self.combinations
            for micro_batch_size, accumulation_steps in self.batch_pairs
        )

    def __contains__(self, config: TrainConfig) -> bool:
        return (
            (config.micro_batch_size, config.accumulation_steps) in self.batch_pairs
            and all(config[name] in values for name, values in self.choices.items())
            and not self.reasons_against(config)
        )

    def __len__(self) -> int:
        return len(self.combinations) * len(self.batch_pairs)

    def reasons_against(self, values: Mapping[str, KnobValue]) -> list[str]:
        """Reasons that values do not go together; empty where they do."""
        return [each.reason for each in self._constraints if each.forbids(values, self.situation)]

    @property
    def micro_batch_sizes(self) -> tuple[int, ...]:
        """The divisor ladder, smallest first."""
        return tuple(size for size, _ in self.batch_pairs)

    def at_micro_batch(self, config: TrainConfig, micro_batch_size: int) -> TrainConfig:
        """The same combination at another step of the ladder."""
        total = self.situation.workload.samples_per_process
        return config.replace(micro_batch_size=micro_batch_size, accumulation_steps=total // micro_batch_size)

    def ruled_out_by(self, config: TrainConfig, out_of_memory: Iterable[TrainConfig]) -> TrainConfig | None:
        """A configuration known to run out of memory that needs at most what ``config`` needs, or None."""
        return next((other for other in out_of_memory if needs_at_least(config, other)), None)

    def _why_none_is_left(self, row: Knob) -> str:
        fixed = self.request.fix.get(row.name)
        refusals = [each for each in self.refusals if each.knob == row.name]
        reasons = "; ".join(str(each) for each in refusals if fixed in (None, str(each.value)))
        return f"No value of {row.name} is left: {reasons}. Loosen --fix, --forbid or --numerics."

    def _batch_pairs(self) -> tuple[tuple[int, int], ...]:
        program, (size, _) = self.situation.program, BATCH_KNOBS
        pairs = self.situation.workload.batch_pairs()
        if program is not None and size in program.own:
            pairs = ((program.micro_batch_size, program.accumulation_steps),)
            for name, value in zip(BATCH_KNOBS, pairs[0], strict=True):
                self._check_own(name, str(value), program.own[size])
        for position, name in enumerate(BATCH_KNOBS):
            fixed = _whole_numbers(name, self.request.fix.get(name), pairs, position)
            forbidden = [_whole_number(name, value) for value in self.request.forbid.get(name, ())]
            pairs = tuple(
                pair for pair in pairs if (fixed is None or pair[position] == fixed) and pair[position] not in forbidden
            )
        if not pairs:
            raise UserError(
                f"--fix and --forbid leave no way to split an effective batch of "
                f"{self.situation.workload.effective_batch}; loosen one of them."
            )
        return pairs

    def _decided_by_program(self, row: Knob) -> tuple[KnobValue, ...]:
        """The one value of a knob that the user's program decides; empty where it is searched. Raises UserError."""
        program = self.situation.program
        if program is None or row.name not in program.own:
            return ()
        own, reason = value_of(program, row), program.own[row.name]
        self._check_own(row.name, own, reason)
        self.refusals.append(Refusal(knob=row.name, value=own, because=Because.PROGRAM, reason=reason))
        return (own,)

    def _check_own(self, name: str, own: str, reason: str) -> None:
        """Raises UserError where something else is asked for than the program's own value of a knob."""
        if self.request.fix.get(name, own) != own or own in self.request.forbid.get(name, ()):
            raise UserError(f"{name} is decided by the program and cannot be changed here: {reason}.")

    def _admits(self, row: Knob, choice: Choice) -> bool:
        refused = self._refused_because(row, choice)
        if refused is not None and row.why_not_asked(self.situation) is None:
            because, reason = refused
            self.refusals.append(Refusal(knob=row.name, value=choice.value, because=because, reason=reason))
        return refused is None

    def _refused_because(self, row: Knob, choice: Choice) -> tuple[Because, str] | None:
        value = str(choice.value)
        reason = why_unavailable(row, choice, self.situation)
        if reason is not None:
            is_package = reason in self.situation.libraries.not_installed
            return Because.NOT_INSTALLED if is_package else Because.UNAVAILABLE, reason
        if value in self.request.forbid.get(row.name, ()):
            return Because.REQUEST, "forbidden by --forbid"
        fixed = self.request.fix.get(row.name)
        if fixed is not None:
            return None if value == fixed else (Because.REQUEST, f"--fix {row.name}={fixed}")
        allowed = _is_programs(self.situation, row, value) or value in self.request.allow.get(row.name, ())
        if choice.numerics.level > NUMERICS_LEVELS[self.request.numerics] and not allowed:
            needed = next(name for name, level in NUMERICS_LEVELS.items() if level >= choice.numerics.level)
            return Because.NUMERICS, f"numerics class {choice.numerics.label}; search it with --numerics {needed}"
        return None


def needs_at_least(config: TrainConfig, other: TrainConfig) -> bool:
    """True if ``config`` certainly needs as much memory as ``other``, which differs in nothing else.

    Memory grows with the micro-batch and shrinks with the rung of a choice, among configurations that
    accumulate. With accumulation 1 there are no gradients during the forward pass: that is a regime of
    its own, and an out-of-memory in one regime says nothing about the other.
    """
    same_regime = (config.accumulation_steps == 1) == (other.accumulation_steps == 1)
    if not same_regime or config.micro_batch_size < other.micro_batch_size:
        return False
    return all(_is_as_large(row, config[row.name], other[row.name]) for row in KNOBS)


def _is_as_large(row: Knob, value: KnobValue, other: KnobValue) -> bool:
    rung, others_rung = row.choice(value).rung, row.choice(other).rung
    return value == other or (rung is not None and others_rung is not None and rung <= others_rung)


def _whole_number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} takes a whole number, not '{text}'.") from None


def _whole_numbers(name: str, text: str | None, pairs: tuple[tuple[int, int], ...], position: int) -> int | None:
    if text is None:
        return None
    number = _whole_number(name, text)
    possible = sorted({pair[position] for pair in pairs})
    if number not in possible:
        raise UserError(f"{name}={number} does not divide the effective batch; possible are {possible}.")
    return number
