"""A search as somebody asks for it: its limits, the part of the space it is of, where its study is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from autofit.driver.budget import Budget
from autofit.errors import UserError
from autofit.job.request import JobRequest
from autofit.knobs.space import SpaceRequest
from autofit.knobs.train_config import KnobValue
from autofit.study.result import Run
from autofit.units import seconds_of

Request = TypeVar("Request", "SearchRequest", JobRequest)


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """Request of a search; durations are seconds, or text such as ``"10m"``.

    ``budget`` and ``max_trials`` count over all runs of the same study; None is without limit. ``run`` is the training
    whose duration and cost are asked for. Raises UserError for what cannot be carried out.
    """

    budget: str | float | None = 600.0
    max_trials: int | None = None
    numerics: str = "standard"
    fix: Mapping[str, KnobValue] | None = None
    allow: Mapping[str, Sequence[KnobValue]] | None = None
    forbid: Mapping[str, Sequence[KnobValue]] | None = None
    study: str | None = None
    storage: str | None = None
    fresh: bool = False
    run: Run | None = None
    trial_timeout: str | float = 600.0
    sampler: str = "autofit"

    def __post_init__(self) -> None:
        if self.max_trials is not None and self.max_trials < 1:
            raise UserError(f"--max-trials must be at least 1, not {self.max_trials}.")

    def space(self) -> SpaceRequest:
        """The part of the space. Raises UserError for a knob or value that there is not."""
        return SpaceRequest.of(self.numerics, self.fix, self.allow, self.forbid)

    def limits(self) -> Budget:
        """The limits as numbers. Raises UserError for a duration that is none."""
        return Budget(seconds=None if self.budget is None else seconds_of(self.budget), trials=self.max_trials)


def filled(request: type[Request], given: Mapping[str, Any]) -> Request:
    """A request with those of the given values for which it has a field."""
    names = [field.name for field in dataclasses.fields(request) if field.name in given]
    return request(**{name: given[name] for name in names})
