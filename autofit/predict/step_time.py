"""How long a step takes: every operator by what it computes and what it moves, against what the device can do.

An operator takes the longer of its arithmetic at the rate of its precision and its traffic at the memory's
bandwidth. A GPU's step cannot be faster than its operators can be launched one after another; on a CPU every launch is
waited for. Both peaks are met only
in part: the efficiencies say how far. They are measured on a present device; for an absent one they are a range, so
that the answer is a range too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autofit.rates import Rates

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Which parts of a device's rates training reaches."""

    arithmetic: float
    traffic: float


OF_PUBLISHED_PEAKS = (Efficiency(arithmetic=0.40, traffic=0.55), Efficiency(arithmetic=0.70, traffic=0.85))
"""For a GPU that is not here, the slow and the fast end. Against the 5,762 tokens/s per GPU that torchtitan
published for an 8B model on H100s, 0.45 and 0.60 give +5 %, 0.70 and 0.80 +55 % (one run, which shards and
checkpoints too): a sanity check and no fit."""
OF_MEASURED_RATES = (Efficiency(arithmetic=0.8, traffic=0.8),)
"""Of what plain work reached on this very device: a start, which the first trial replaces by its own figure."""
CAUSAL = 0.5
"""Flash kernels skip what a causal mask hides; torch's formulas count the whole square."""
COMPILED_TRAFFIC = 0.6
"""What fusing leaves of the traffic of operators that multiply no matrices: an estimate. torchtitan's 8B runs go 1.16
times as fast compiled, with a third of the eager time in such operators."""


COMPILED_LAUNCHES = 0.4
"""What fusing leaves of the launches: an estimate."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What each operator of a micro-step and of the update behind it does; see ``trace.Operators``."""

    flops: Floats
    moved_bytes: Floats
    bits: npt.NDArray[np.int64]
    is_quadratic: npt.NDArray[np.bool_]
    is_update: npt.NDArray[np.bool_]


class StepClock:
    """Times of one traced micro-step and its update, on one device."""

    def __init__(
        self,
        rates: Rates,
        *,
        tf32: bool = False,
        causal: bool = True,
        compiled: bool = False,
        length_share: float = 1.0,
        square_share: float = 1.0,
    ) -> None:
        """``length_share`` is the length of a typical micro-batch over that of the traced one; ``square_share`` the
        part of the square of a row that attention computes."""
        self._square_share = square_share
        self._rates = rates
        self._length_share = length_share
        self._tf32 = tf32
        self._causal = causal
        self._traffic = COMPILED_TRAFFIC if compiled else 1.0
        self._launches = COMPILED_LAUNCHES if compiled else 1.0

    def micro_step_and_update(self, work: Work, efficiency: Efficiency) -> tuple[float, float]:
        """Seconds of forward and backward of one micro-batch, and of the update."""
        square = self._square_share * (CAUSAL if self._causal else 1.0)
        flops = np.where(work.is_quadratic, work.flops * square, work.flops)
        moved = np.where(work.bits == 0, work.moved_bytes * self._traffic, work.moved_bytes)
        share = np.where(work.is_update, 1.0, self._length_share)
        flops = flops * np.where(work.is_quadratic, share**2, share)
        moved = moved * share
        wide = (self._rates.flops_tf32 if self._tf32 else 0.0) or self._rates.flops_32
        rate = np.where(work.bits == 16, self._rates.flops_16, wide) * efficiency.arithmetic
        seconds = np.maximum(flops / rate, moved / (self._rates.bytes_per_second * efficiency.traffic))
        return self._with_launches(seconds[~work.is_update]), self._with_launches(seconds[work.is_update])

    def step(self, work: Work, efficiency: Efficiency, accumulation: int) -> float:
        """Seconds of an optimizer step."""
        micro_step, update = self.micro_step_and_update(work, efficiency)
        return accumulation * micro_step + update

    def _with_launches(self, seconds: Floats) -> float:
        launches = len(seconds) * self._rates.launch_seconds * self._launches
        work = float(seconds.sum())
        return max(work, launches) if self._rates.launches_overlap else work + launches
