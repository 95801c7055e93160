"""The prediction of a configuration that was not run: bytes by category, and seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    """Judgement of whether a configuration fits.

    ``no`` where what must be alive at once exceeds the limit, ``borderline`` where only what the allocator loses
    between blocks does.
    """

    FITS = "fits"
    BORDERLINE = "borderline"
    NO = "does not fit"


class Expected(NamedTuple):
    """The two figures of a prediction that are kept of configurations that were not tried."""

    seconds: float
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """Work of one optimizer step on one device, as traced.

    ``flops`` counts a multiplication and an addition as two, padding and recomputation included, attention as its
    kernel computes it. ``model_flops`` leaves out what activation checkpointing computes again, and counts fused
    attention, of a causal model half of the square; None where that cannot be traced. ``moved_bytes`` is what operators
    read and write once each, with torch.compile an estimate of it.
    ``arithmetic_seconds`` is the time of the model's operations at the device's peak rates, each in its precision, and
    ``traffic_seconds`` that of the moved bytes at its bandwidth. ``peaks`` says whose figures those are: ``published``,
    or ``measured`` in plain work of the same device. ``seconds_by_part`` says what the predicted time is spent on.
    """

    flops: float
    model_flops: float | None
    moved_bytes: float
    arithmetic_seconds: float | None
    traffic_seconds: float
    peaks: str
    seconds_by_part: dict[str, float]

    def mfu(self, step_seconds: float) -> float | None:
        """Model FLOPs utilization of a step that took so long: the share of it that its arithmetic takes at the peak.

        Where all products have one precision that is model FLOPs / (seconds x peak FLOP/s), after PaLM (arXiv
        2204.02311, appendix B), but for what is counted: the trace's operations, padding among them, of a causal model
        half the square of attention, and in its backward pass the scores that fused kernels compute again. None where
        the model's operations are not known.
        """
        return None if self.arithmetic_seconds is None else self.arithmetic_seconds / step_seconds

    def bandwidth_share(self, step_seconds: float) -> float:
        """Share of the memory's bandwidth that the traced traffic takes; what caches answer is counted too."""
        return self.traffic_seconds / step_seconds


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Nothing was run. ``bytes_by_category`` adds up to ``total_bytes``.

    ``live_bytes`` is what is alive at once at the peak, on the device alone; ``total_bytes`` adds what the allocator
    loses, the context and the libraries' workspaces. ``paged_bytes`` may leave the device under pressure and are not
    part of either. ``step_seconds`` is the range of an optimizer step's time, from fast to slow; None where the rates
    of the device are not known. ``notes`` are sentences on what the prediction leaves out. ``work`` is there where the
    rates are known, of a prediction that was made for a trial.
    """

    verdict: Verdict
    bytes_by_category: dict[str, int]
    live_bytes: int
    total_bytes: int
    step_seconds: tuple[float, float] | None
    paged_bytes: int = 0
    is_calibrated: bool = False
    notes: tuple[str, ...] = ()
    work: StepWork | None = None

    @property
    def certain_bytes(self) -> int:
        """Bytes that must be there at once, whatever the allocator does: live bytes and fixed costs."""
        fixed = sum(self.bytes_by_category.get(name, 0) for name in ("workspaces", "context"))
        return self.live_bytes + fixed

    @property
    def likely_seconds(self) -> float | None:
        """One figure out of the range, to put configurations in order: its geometric middle."""
        if self.step_seconds is None:
            return None
        fast, slow = self.step_seconds
        return float((fast * slow) ** 0.5)
