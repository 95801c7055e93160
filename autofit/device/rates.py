"""Rates of a device, at most or as measured: arithmetic in each precision, memory traffic, launches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rates:
    """FLOP per second of matrix products by their inputs, a multiplication and an addition counted as two; bytes per
    second of the memory; seconds to launch one operator. ``flops_tf32`` is 0 where there is no such arithmetic.
    ``launches_overlap`` says that the next operator is launched while one runs, as on a GPU. ``link_bytes_per_second``
    is what goes to another device of the host and comes from it at the same time; None where it is not known."""

    flops_16: float
    flops_32: float
    bytes_per_second: float
    launch_seconds: float
    flops_tf32: float = 0.0
    launches_overlap: bool = True
    link_bytes_per_second: float | None = None
