"""A full sweep: every configuration of a bounded space with what a device answered, as a file that can be replayed."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from autofit.job.situation import Situation
from autofit.knobs import completed
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.study.measurement import Memory
from autofit.study.outcome import Outcome
from autofit.study.prediction import Prediction

FORMAT = 1


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One real trial. ``samples`` are seconds of an optimizer step, timed shapes brought to the mean step."""

    outcome: Outcome
    reason: str = ""
    samples: tuple[float, ...] = ()
    memory: Memory | None = None
    wall_seconds: float = 0.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration: what each pass over the space answered, and what was predicted before any of them."""

    values: dict[str, KnobValue]
    answers: tuple[Answer, ...]
    prediction: Prediction | None = None

    @property
    def config(self) -> TrainConfig:
        """Its configuration."""
        return TrainConfig(completed(self.values))


class Sweep(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """``synthetic`` says that no device answered. ``about`` holds what made it: date, machine, versions, command."""

    name: str
    situation: Situation
    request: dict[str, Any]
    rows: tuple[Row, ...]
    about: dict[str, Any]
    synthetic: bool = False
    format: int = FORMAT

    @cached_property
    def space(self) -> SearchSpace:
        """The space that was swept: all of it, or it would not be a full sweep."""
        made = SearchSpace(self.situation, msgspec.convert(self.request, SpaceRequest))
        assert set(made.configs) == set(self.by_config), f"sweep {self.name} is not of its whole space"
        return made

    @cached_property
    def by_config(self) -> Mapping[TrainConfig, Row]:
        """Rows by configuration."""
        return {row.config: row for row in self.rows}


def write_sweep(sweep: Sweep, path: Path) -> None:
    """Write it, compressed; the same sweep gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(msgspec.json.encode(sweep, order="deterministic"), mtime=0))


def read_sweep(path: Path) -> Sweep:
    """Read what ``write_sweep`` wrote."""
    return msgspec.json.decode(gzip.decompress(path.read_bytes()), type=Sweep)
