"""Time of a step: every operator's arithmetic and memory traffic, against the rates of the device.

An operator takes the longer of its arithmetic at the rate of its precision and its traffic at the memory's
bandwidth. A GPU's step cannot be faster than its operators can be launched one after another; on a CPU every launch is
waited for. Both peaks are met only
in part: an Efficiency says how far. Of a present device the rates are measured; for an absent one the published peaks
are taken and the answer is a range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from autofit.device.rates import Rates
from autofit.predict.trace import Operators, Phase

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Parts of a device's rates that training reaches: of its arithmetic in matrix products and in fused attention, and
    of its memory's bandwidth.

    ``launch_seconds`` go by from one operator to the next where the device is faster than its host; None where the
    rates say it. A step is likely to take between 1 / ``spread`` and ``spread`` times what is predicted.
    """

    products: float
    attention: float
    traffic: float
    launch_seconds: float | None = None
    spread: float = 1.0


OF_PUBLISHED_PEAKS = Efficiency(products=0.68, attention=0.7, traffic=0.59, launch_seconds=29e-6, spread=1.4)
"""For a GPU that is not here: fitted to 60 published steps on A100 and L40S (``python -m benchmarks.memory_prediction
published_time``)."""
OF_POWER_LIMITED_CARDS = Efficiency(products=0.42, attention=0.23, traffic=0.6, launch_seconds=46e-6, spread=1.4)
"""The same for cards of at most 75 W, which cannot keep up their clocks: fitted to 37 published steps on a T4."""
OF_MEASURED_RATES = Efficiency(products=0.8, attention=0.8, traffic=0.8)
"""Of what plain work reached on this very device: a start, which the first trial replaces by its own figure."""
LINK_SHARE = 0.8
"""Of a link's rate in one direction, what exchanges among processes reach: an assumption."""
CAUSAL = 0.5
"""Flash kernels skip what a causal mask hides; torch's formulas count the whole square."""
COMPILED_TRAFFIC = 0.6
"""What fusing leaves of the traffic of operators that multiply no matrices: an estimate. torchtitan's 8B runs go 1.16
times as fast compiled, with a third of the eager time in such operators."""


COMPILED_LAUNCHES = 0.4
"""What fusing leaves of the launches: an estimate."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """Work of each operator of a micro-step and of the update behind it; see ``trace.Operators``."""

    flops: Floats
    moved_bytes: Floats
    bits: npt.NDArray[np.int64]
    is_quadratic: npt.NDArray[np.bool_]
    is_update: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, operators: Operators) -> Work:
        """Of the operators of one trace."""
        return cls(
            flops=np.array(operators.flops, dtype=float),
            moved_bytes=np.array(operators.moved_bytes, dtype=float),
            bits=np.array(operators.bits),
            is_quadratic=np.array(operators.quadratic, dtype=bool),
            is_update=np.array(operators.phases) == Phase.UPDATE,
        )


@dataclass(frozen=True, kw_only=True)
class WorkShares:
    """A typical micro-batch's part of the work of the traced one: of its padded tokens, and of the squares of the
    lengths that attention works on."""

    length: float = 1.0
    scores: float = 1.0


class Amounts(NamedTuple):
    """Work of an optimizer step: its operations, its bytes, and the seconds of either alone at the full rates."""

    flops: float
    moved_bytes: float
    arithmetic_seconds: float
    traffic_seconds: float


def exchange_seconds(exchanged_bytes: int, processes: int, link_bytes_per_second: float) -> float:
    """Seconds in which each process gets the others' parts in a ring, at what a link really gives."""
    return exchanged_bytes * (processes - 1) / processes / (LINK_SHARE * link_bytes_per_second)


class StepClock:
    """Times of one traced micro-step and its update, on one device."""

    def __init__(
        self,
        rates: Rates,
        *,
        tf32: bool = False,
        causal: bool = True,
        compiled: bool = False,
        shares: WorkShares = WorkShares(),
    ) -> None:
        self._shares = shares
        self._rates = rates
        self._tf32 = tf32
        self._causal = causal
        self._traffic = COMPILED_TRAFFIC if compiled else 1.0
        self._launches = COMPILED_LAUNCHES if compiled else 1.0

    def micro_step_and_update(self, work: Work, efficiency: Efficiency) -> tuple[float, float]:
        """Seconds of forward and backward of one micro-batch, and of the update."""
        seconds = self._each(work, efficiency)
        return (
            self._with_launches(seconds[~work.is_update], efficiency),
            self._with_launches(seconds[work.is_update], efficiency),
        )

    def step(self, work: Work, efficiency: Efficiency, accumulation: int) -> float:
        """Seconds of an optimizer step."""
        micro_step, update = self.micro_step_and_update(work, efficiency)
        return accumulation * micro_step + update

    def parts(self, work: Work, efficiency: Efficiency, accumulation: int) -> dict[str, float]:
        """Seconds of an optimizer step by what they are spent on: they add up to those of ``step``."""
        seconds = self._each(work, efficiency)
        micro_step, update = self.micro_step_and_update(work, efficiency)
        kinds = {
            "attention": work.is_quadratic,
            "matrix_products": (work.bits > 0) & ~work.is_quadratic,
            "other_operators": (work.bits == 0) & ~work.is_quadratic,
        }
        found = {name: accumulation * float(seconds[kind & ~work.is_update].sum()) for name, kind in kinds.items()}
        found["update"] = float(seconds[work.is_update].sum())
        # Launches that the device waits for, or where they do not overlap all of them.
        return {**found, "launches": accumulation * micro_step + update - sum(found.values())}

    def amounts(self, work: Work, accumulation: int) -> Amounts:
        """Operations and bytes of an optimizer step, and the seconds that each take alone, at the full rates."""
        flops, moved = self._amounts(work)

        def of_step(of_operators: Floats) -> float:
            return float(accumulation * of_operators[~work.is_update].sum() + of_operators[work.is_update].sum())

        return Amounts(
            flops=of_step(flops),
            moved_bytes=of_step(moved),
            arithmetic_seconds=of_step(flops / self._flops_per_second(work)),
            traffic_seconds=of_step(moved) / self._rates.bytes_per_second,
        )

    def _each(self, work: Work, efficiency: Efficiency) -> Floats:
        """Seconds of every operator: the longer of its arithmetic and its traffic."""
        flops, moved = self._amounts(work)
        rate = self._flops_per_second(work) * np.where(work.is_quadratic, efficiency.attention, efficiency.products)
        seconds: Floats = np.maximum(flops / rate, moved / (self._rates.bytes_per_second * efficiency.traffic))
        return seconds

    def _amounts(self, work: Work) -> tuple[Floats, Floats]:
        """Floating-point operations and moved bytes of every operator of a typical micro-step, and of the update."""
        moved = np.where(work.bits == 0, work.moved_bytes * self._traffic, work.moved_bytes)
        share = np.where(work.is_update, 1.0, self._shares.length)
        scores = self._shares.scores * (CAUSAL if self._causal else 1.0)
        return work.flops * np.where(work.is_quadratic, scores, share), moved * share

    def _flops_per_second(self, work: Work) -> Floats:
        wide = (self._rates.flops_tf32 if self._tf32 else 0.0) or self._rates.flops_32
        return np.where(work.bits == 16, self._rates.flops_16, wide)

    def _with_launches(self, seconds: Floats, efficiency: Efficiency) -> float:
        launch = self._rates.launch_seconds if efficiency.launch_seconds is None else efficiency.launch_seconds
        launches = len(seconds) * launch * self._launches
        work = float(seconds.sum())
        return max(work, launches) if self._rates.launches_overlap else work + launches
