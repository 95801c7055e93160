"""The measurement of one trial: raw samples as they came, and the figures computed from them.

Raw seconds are stored; every summary is a property, so a better summary can be computed later from
an old study. Warm-up is kept apart and never averaged in.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autofit.device.device import DeviceLoad

# Two-sided 95 % quantiles of Student's t for 1 to 10 degrees of freedom (any statistics table); the
# normal quantile is within 3 % of the exact one beyond that.
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


# NVML's nvmlClocksEventReason bits, without those of a card that rests or runs at clocks somebody set.
_SLOWED_BY = {
    0x04: "its power limit",
    0x08: "a hardware slowdown",
    0x20: "its temperature",
    0x40: "its temperature",
    0x80: "a power brake",
}
NOTICEABLE = 1.1
"""Steps of many shapes that take this many times what repeated shapes take say that new shapes have a price."""
DISTURBED_CORES = 0.25
"""A run is disturbed when others kept more than this part of a core busy: it is repeated while rounds are left."""


@dataclass(frozen=True, kw_only=True)
class StepSeconds:
    """One optimizer step, cut where the Trainer moves from one part to the next; the parts leave no gap.

    ``loop``: from the previous step's end to the first fetch (logging, callbacks). ``fetch``: collating
    the step's micro-batches and moving them to the device. ``micro_steps``: forward and backward, one
    entry per micro-batch that was run. ``update``: clipping, optimizer, scheduler, zeroing gradients.
    """

    loop: float
    fetch: float
    micro_steps: tuple[float, ...]
    update: float

    @property
    def total(self) -> float:
        """Seconds of the whole step as it was run."""
        return self.loop + self.fetch + sum(self.micro_steps) + self.update

    def composed(self, accumulation_steps: int) -> float:
        """Seconds of a step with ``accumulation_steps`` micro-steps, from one that ran k of them.

        T(A) = T(k) + (A - k) x (interior + fetch / k), where interior is the mean of the micro-steps
        that are neither first nor last. The first allocates gradients and the last ends with the
        gradients complete, so neither stands for the others (126 and 169 ms against 144 measured once
        on a CPU; the plain mean of the three composed to errors from -4 % to +19 %).
        """
        ran = len(self.micro_steps)
        if ran == accumulation_steps:
            return self.total
        if ran < 3:
            raise ValueError(f"{ran} micro-steps have no interior one to compose {accumulation_steps} from")
        interior = statistics.fmean(self.micro_steps[1:-1])
        return self.total + (accumulation_steps - ran) * (interior + self.fetch / ran)

    def parts(self, accumulation_steps: int) -> dict[str, float]:
        """The seconds of ``composed`` by part; they add up to it. ``loader`` is the fetch of the micro-batches."""
        ran = len(self.micro_steps)
        missing = accumulation_steps - ran
        interior = statistics.fmean(self.micro_steps[1:-1]) if missing else 0.0
        return {
            "loader": self.fetch * accumulation_steps / ran,
            "forward_backward": sum(self.micro_steps) + missing * interior,
            "update": self.update,
            "between_steps": self.loop,
        }


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """A collated micro-batch: ``rows`` of ``length`` tokens each, padding included."""

    rows: int
    length: int

    @property
    def padded_tokens(self) -> int:
        """Tokens that the device computes on, padding included; a micro-batch's time is close to affine in it."""
        return self.rows * self.length


@dataclass(frozen=True, kw_only=True)
class Window:
    """A run of optimizer steps with one synchronisation before and one after, and none between.

    ``wall_seconds`` is taken by the host's clock around it, apart from the marks inside. ``shape`` is that
    of every micro-batch in it; None where the steps are whole effective batches of different shapes, each
    of which has its ``step_loads``: its padded tokens over those of a mean step.
    """

    wall_seconds: float
    steps: tuple[StepSeconds, ...]
    shape: BatchShape | None = None
    step_loads: tuple[float, ...] = ()
    load_before: DeviceLoad = field(default_factory=DeviceLoad)
    load_after: DeviceLoad = field(default_factory=DeviceLoad)

    def samples(self, accumulation_steps: int) -> tuple[float, ...]:
        """Seconds of each step at the full accumulation, brought to the mean step's load."""
        loads = self.step_loads or (1.0,) * len(self.steps)
        return tuple(step.composed(accumulation_steps) / load for step, load in zip(self.steps, loads, strict=True))

    @property
    def cores_taken(self) -> float | None:
        """CPU cores that others kept busy meanwhile, on average; None where nothing counts them."""
        before, after = self.load_before.others_seconds, self.load_after.others_seconds
        return None if before is None or after is None else max(0.0, after - before) / self.wall_seconds

    @property
    def unaccounted_share(self) -> float:
        """Distance of the parts' sum from the wall time, as a share of it; the protocol allows 1 %."""
        return abs(sum(step.total for step in self.steps) - self.wall_seconds) / self.wall_seconds


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peaks over a whole trial, in bytes.

    On CUDA ``peak_allocated`` and ``peak_reserved`` are the caching allocator's, plus the inputs of the
    micro-batches that a shortened step left out. On a CPU, where there is no such allocator, both are
    the growth of the process's data segment above its baseline. ``context`` is what
    the device's runtime itself takes; ``paged_state`` the optimizer state in managed memory, which the
    allocator does not see; ``cap`` the enforced limit on what the allocator may reserve.
    """

    peak_allocated: int
    peak_reserved: int
    context: int
    paged_state: int
    cap: int
    device_used: int | None = None
    alloc_retries: int | None = None

    def at_least(self, other: Memory) -> Memory:
        """The larger of each peak."""
        return replace(
            self,
            peak_allocated=max(self.peak_allocated, other.peak_allocated),
            peak_reserved=max(self.peak_reserved, other.peak_reserved),
            device_used=other.device_used,
        )

    @property
    def needed(self) -> int:
        """Bytes that have to fit on the card: reserved, context and paged state together."""
        return self.peak_reserved + self.context + self.paged_state


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A finished trial in numbers.

    ``whole`` says whether real effective batches were run with every micro-step of the accumulation, or a
    few shapes of micro-batch with k = min(accumulation, 3) micro-steps and the rest composed.
    ``shape_shares`` says what share of the expected step each timed shape stands for; it is empty where
    effective batches ran whole. ``tokens_per_step`` counts real (non-pad) tokens of a mean optimizer step
    at the full effective batch of one process, ``padded_tokens_per_step`` all that is computed on. ``losses`` holds one
    entry per micro-step, None where not finite.
    ``late_compilations`` counts graphs that torch.compile made after warm-up, inside the timed steps.
    ``evaluation_batch_size`` is the largest that was run with the optimizer state alive. ``rounds`` are the numbers of
    the interleaved rounds that are pooled in it, with the step seconds of each and the cores that others kept busy in
    it; empty for a single run.
    """

    micro_batch_size: int
    accumulation_steps: int
    processes: int
    tokens_per_step: float
    padded_tokens_per_step: float
    whole: bool
    warmup: tuple[StepSeconds, ...]
    windows: tuple[Window, ...]
    shape_shares: tuple[tuple[BatchShape, float], ...]
    losses: tuple[float | None, ...]
    memory: Memory
    evaluation_batch_size: int
    evaluation_seconds: float
    build_seconds: float
    late_compilations: int = 0
    rounds: tuple[int, ...] = ()
    round_seconds: tuple[float, ...] = ()
    round_cores_taken: tuple[float, ...] = ()

    @property
    def undisturbed_rounds(self) -> set[int]:
        """Rounds in which others kept at most a small part of a core busy."""
        cores_by_round = zip(self.rounds, self.round_cores_taken, strict=True)
        return {number for number, cores in cores_by_round if cores <= DISTURBED_CORES}

    @property
    def cores_taken(self) -> float:
        """CPU cores that others kept busy during the timed windows, on average; 0 where nothing counts them."""
        counted = [(window.cores_taken, window.wall_seconds) for window in self.windows]
        known = [(cores, seconds) for cores, seconds in counted if cores is not None]
        return sum(c * s for c, s in known) / sum(s for _, s in known) if known else 0.0

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """Reasons for which the device ran below its clock while it was timed, as the driver gives them."""
        masks = [window.load_after.throttle_reasons or 0 for window in self.windows]
        return tuple(dict.fromkeys(name for bit, name in _SLOWED_BY.items() if any(mask & bit for mask in masks)))

    @property
    def is_disturbed(self) -> bool:
        """True if others took so much of the machine that the seconds may not be the configuration's."""
        return self.cores_taken > DISTURBED_CORES

    @property
    def samples(self) -> tuple[float, ...]:
        """Seconds per optimizer step at the full accumulation, one entry per timed step, in the order timed."""
        return tuple(seconds for window in self.windows for seconds in window.samples(self.accumulation_steps))

    @property
    def step_seconds(self) -> float:
        """Expected seconds per optimizer step over the workload's real lengths; see ``expected_step``."""
        return expected_step(self.windows, self.shape_shares, self.accumulation_steps)[0]

    @property
    def seconds_by_part(self) -> dict[str, float]:
        """``step_seconds`` by what they were spent on: the shares are those of the mean timed step."""
        groups: list[tuple[float, list[Window]]] = [(1.0, list(self.windows))]
        if self.shape_shares:
            groups = [
                (share, [each for each in self.windows if each.shape == shape]) for shape, share in self.shape_shares
            ]
        parts: dict[str, float] = {}
        for share, windows in groups:
            steps = [step.parts(self.accumulation_steps) for window in windows for step in window.steps]
            for name in steps[0]:
                parts[name] = parts.get(name, 0.0) + share * statistics.fmean(step[name] for step in steps)
        total = sum(parts.values())
        return {name: seconds / total * self.step_seconds for name, seconds in parts.items()}

    @property
    def uncertainty(self) -> float:
        """Half the 95 % confidence interval of ``step_seconds``, as a share of it; infinite for one sample.

        Over several rounds it is at least what the rounds differ by: a machine drifts more between runs than within.
        """
        return self.sampling_error if len(self.rounds) < 2 else max(self.sampling_error, self.round_spread)

    @property
    def sampling_error(self) -> float:
        """Half the 95 % interval that the timed samples alone give, as a share of a step."""
        return expected_step(self.windows, self.shape_shares, self.accumulation_steps)[1]

    @property
    def round_spread(self) -> float:
        """Half of what the compared rounds differ by, as a share of a step; there have to be rounds."""
        by_round = dict(zip(self.rounds, self.round_seconds, strict=True))
        seconds = [by_round[number] for number in self.compared_rounds]
        return (max(seconds) - min(seconds)) / 2 / self.step_seconds

    @property
    def compared_rounds(self) -> set[int]:
        """Undisturbed rounds; all where there are not two of them, as a single one differs from nothing."""
        undisturbed = self.undisturbed_rounds
        return undisturbed if len(undisturbed) > 1 else set(self.rounds)

    @property
    def starting_seconds(self) -> float:
        """Seconds of the first step beyond a warm one: kernels are loaded and, with torch.compile, made."""
        return max(0.0, self.warmup[0].total - self.warmup[-1].total)

    @property
    def padding_share(self) -> float:
        """Share of padding among the tokens that are computed on."""
        return 1 - self.tokens_per_step / self.padded_tokens_per_step

    @property
    def samples_per_second(self) -> float:
        """Samples over all processes per second."""
        return self.micro_batch_size * self.accumulation_steps * self.processes / self.step_seconds

    @property
    def tokens_per_second(self) -> float:
        """Real (non-pad) tokens over all processes per second."""
        return self.tokens_per_step * self.processes / self.step_seconds


def pooled(runs: Mapping[int, Measurement]) -> Measurement:
    """Several runs of one configuration, by round, as one measurement: their windows, the largest of each peak.

    Windows of disturbed rounds are left out where there are others. The warm-up is the longest: a compiler's caches
    make later ones shorter.
    """
    measurements = list(runs.values())
    last = measurements[-1]
    memory = last.memory
    for each in measurements[:-1]:
        memory = memory.at_least(each.memory)
    quiet = [each for each in measurements if not each.is_disturbed] or measurements
    return replace(
        last,
        warmup=longest_start(measurements),
        windows=tuple(window for each in quiet for window in each.windows),
        losses=tuple(loss for each in measurements for loss in each.losses),
        memory=memory,
        evaluation_batch_size=min(each.evaluation_batch_size for each in measurements),
        late_compilations=sum(each.late_compilations for each in measurements),
        rounds=tuple(runs),
        round_seconds=tuple(each.step_seconds for each in measurements),
        round_cores_taken=tuple(each.cores_taken for each in measurements),
    )


def longest_start(measurements: Iterable[Measurement]) -> tuple[StepSeconds, ...]:
    """The warm-up that began slowest: of several runs, the one that had to compile."""
    return max(measurements, key=lambda each: each.starting_seconds).warmup


def expected_step(
    windows: Sequence[Window], shape_shares: Sequence[tuple[BatchShape, float]], accumulation_steps: int
) -> tuple[float, float]:
    """Seconds of the expected optimizer step, and half their 95 % confidence interval as a share of them.

    Micro-batches of the frozen list are exchangeable over the places of a step, so the expected step is
    the expectation of a step whose micro-batches all have one shape: the shares' sum of the shapes'
    medians. Where steps of many shapes took noticeably longer than that, new shapes have a price of their own (kernels
    are made for them) and those steps are the figure. Where effective batches ran whole, it is the median of the steps,
    each brought to the mean load.
    """
    groups: list[tuple[float, tuple[float, ...]]] = []
    if shape_shares:
        for shape, share in shape_shares:
            samples = [window.samples(accumulation_steps) for window in windows if window.shape == shape]
            groups.append((share, tuple(itertools.chain.from_iterable(samples))))
    else:
        groups.append((1.0, tuple(itertools.chain.from_iterable(w.samples(accumulation_steps) for w in windows))))
    seconds = sum(share * statistics.median(samples) for share, samples in groups)
    mixed = _mixed_step(windows, accumulation_steps) if shape_shares else None
    if mixed is not None and mixed[0] > NOTICEABLE * seconds:
        return mixed
    variance = sum((share * statistics.fmean(samples) * relative_half_width(samples)) ** 2 for share, samples in groups)
    return seconds, math.sqrt(variance) / seconds


def _mixed_step(windows: Sequence[Window], accumulation_steps: int) -> tuple[float, float] | None:
    """The same from a short trial's steps of many shapes, each of which came once; None where there are none.

    All their seconds over all their loads: a step's fixed part is then spread as it is in the mean step.
    """
    mixed = [window for window in windows if window.shape is None]
    loads = [load for window in mixed for load in window.step_loads]
    if not loads:
        return None
    total = sum(step.composed(accumulation_steps) for window in mixed for step in window.steps)
    samples = tuple(itertools.chain.from_iterable(window.samples(accumulation_steps) for window in mixed))
    return total / sum(loads), relative_half_width(samples)


def relative_half_width(samples: tuple[float, ...]) -> float:
    """Half-width of the 95 % confidence interval of the mean, over the mean (Student's t)."""
    count = len(samples)
    if count < 2:
        return math.inf
    quantile = _T95[count - 2] if count - 2 < len(_T95) else 1.96
    return quantile * statistics.stdev(samples) / math.sqrt(count) / statistics.fmean(samples)
