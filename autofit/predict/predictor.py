"""Predictions of a configuration's memory and time on a device, without running it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable

from autofit.device.kinds import kind_of
from autofit.device.rates import Rates
from autofit.job.situation import Situation
from autofit.job.tasks import task_named
from autofit.knobs import KNOBS, knob
from autofit.knobs.allocator import EXPANDABLE
from autofit.knobs.attention import PLAIN, PLAINEST
from autofit.knobs.knob import PROGRAMS_OWN
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.predict.calibration import Calibration
from autofit.predict.micro_batches import CannotPredictError
from autofit.predict.needs import Needs
from autofit.predict.step_need import Need, Reserved
from autofit.predict.step_time import OF_MEASURED_RATES, Efficiency, StepClock, exchange_seconds
from autofit.study.prediction import Prediction, StepWork, Verdict
from autofit.units import MIB

CHECKPOINTING = knob("activation_checkpointing")
FITS_UP_TO = 0.97
"""What certainly must be there is borderline above this share of the limit: the allocator is only simulated."""
COMMUNICATOR_BYTES = 688 * MIB
"""NCCL's own buffers, outside the allocator: what others saw it take on 4 A100s (github.com/NVIDIA/nccl/issues/964)."""
HEAP_OVERHEAD = 0.15
"""On a host a process's own pages exceed its tensors by up to this share: the heap, threads, libraries' buffers."""


class Predictor:
    """Predictions for the device and the limits of one situation; ``needs`` may serve several devices.

    ``rates`` and ``efficiency`` give times; without rates there are none. ``peaks`` are the published rates of the
    device, where they are known.
    """

    def __init__(
        self,
        needs: Needs,
        situation: Situation,
        *,
        rates: Rates | None = None,
        efficiency: Efficiency = OF_MEASURED_RATES,
        peaks: Rates | None = None,
    ) -> None:
        self._needs = needs
        self._kind = kind_of(situation.device)
        self._attentions = situation.model.attention
        self._workload, self._device, self._limits = situation.workload, situation.device, situation.limits
        self._rates = rates
        self._efficiency = efficiency
        self._peaks = peaks
        self._context = self._kind.context_bytes(situation.device)
        if self._workload.processes > 1 and not self._kind.is_host:
            self._context += COMMUNICATOR_BYTES
        self.calibration = Calibration()

    def prepare(self, configs: Iterable[TrainConfig]) -> None:
        """Have the traces of many configurations made at once, side by side."""
        self._needs.prepare(configs)

    def predict(self, config: TrainConfig, *, simulate: bool = True, with_work: bool = False) -> Prediction:
        """Bytes and seconds of a configuration. Raises CannotPredictError.

        ``simulate`` plays the allocator over the step, which takes a fraction of a second for a large model; without
        it, what the allocator loses is left out. ``with_work`` adds the work of the step, which may take another trace.
        """
        need, workspaces = self._needs.of(config), self._kind.workspace_bytes(self._device)
        certain = need.live_bytes + workspaces + self._context
        # Where little is needed, what large configurations were off by says little.
        extra = max(self.calibration.extra_bytes(config), -certain // 2)
        reserved = None
        if simulate and self._kind.caches_memory and certain <= self._limits.usable_bytes:
            reserved = self.on_allocator(config)
        slack = 0 if reserved is None else max(0, reserved.peak_bytes - need.live_bytes - workspaces)
        categories = {category.name.lower(): size for category, size in need.bytes_by_category.items()}
        categories |= {"allocator_slack": slack, "workspaces": workspaces, "context": self._context}
        if extra:
            categories["calibration"] = extra
        total = sum(categories.values())
        is_tight = reserved is not None and (reserved.is_out_of_memory or reserved.retries_when_warm > 0)
        return Prediction(
            verdict=self._verdict(config, certain, slack + extra, is_tight=is_tight),
            bytes_by_category=categories,
            live_bytes=need.live_bytes,
            total_bytes=total,
            step_seconds=self._step_seconds(config, need),
            paged_bytes=need.paged_bytes,
            is_calibrated=self.calibration.num_trials > 0,
            notes=(*_not_traced(config), *_said(config, "not_timed")),
            work=self._step_work(config, need) if with_work else None,
        )

    def on_allocator(self, config: TrainConfig) -> Reserved:
        """Peaks of CUDA's allocator, simulated under the limit. Raises CannotPredictError."""
        return self._needs.of(config).on_allocator(
            limit=self._limits.usable_bytes - self._context,
            expandable=config["allocator"] == EXPANDABLE,
            workspaces=self._kind.workspace_bytes(self._device),
        )

    def plain(self, config: TrainConfig) -> Prediction:
        """Prediction before any trial corrects it, without the allocator's losses. Raises CannotPredictError."""
        calibration, self.calibration = self.calibration, Calibration()
        try:
            return self.predict(config, simulate=False)
        finally:
            self.calibration = calibration

    def learn(self, config: TrainConfig, *, needed_bytes: int, paged_bytes: int, context: int, seconds: float) -> None:
        """Learn from a real trial; from one that cannot be predicted nothing is learned."""
        calibration, self.calibration = self.calibration, Calibration()
        try:
            self._context = context or self._context
            plain = self.predict(config)
        except CannotPredictError:
            return
        finally:
            self.calibration = calibration
        likely = plain.likely_seconds
        self.calibration.learn(
            config,
            missing_bytes=needed_bytes - paged_bytes - plain.total_bytes,
            time_ratio=None if likely is None else seconds / likely,
        )

    def _verdict(self, config: TrainConfig, certain: int, likely_more: int, *, is_tight: bool) -> Verdict:
        usable = self._limits.usable_bytes
        if certain > usable:
            # Of what is not traced the need is only known not to be more.
            return Verdict.BORDERLINE if _not_traced(config) else Verdict.NO
        likely = certain + max(0, likely_more)
        if not self._kind.caches_memory and not self.calibration.num_trials:
            likely = round(likely * (1 + HEAP_OVERHEAD))
        # The simulated allocator keeps within the limit; what is asked of it is room for being wrong by a little.
        return Verdict.BORDERLINE if is_tight or likely > FITS_UP_TO * usable else Verdict.FITS

    def _step_seconds(self, config: TrainConfig, need: Need) -> tuple[float, float] | None:
        if self._rates is None:
            return None
        clock = self._clock(config, need, self._rates)
        likely = clock.step(need.work, self._efficiency, config.accumulation_steps)
        factor = self.calibration.time_factor(config)
        # What processes exchange is hidden behind what they compute, or it is not.
        exchange = self._exchange_seconds(need)
        fast, slow = max(likely, exchange), likely + exchange
        if factor is None:
            return fast / self._efficiency.spread, slow * self._efficiency.spread
        middle = math.sqrt(fast * slow) * factor
        return middle, middle

    def _exchange_seconds(self, need: Need) -> float:
        link = None if self._rates is None else (self._peaks or self._rates).link_bytes_per_second
        return 0.0 if link is None else exchange_seconds(need.exchanged_bytes, self._workload.processes, link)

    def _step_work(self, config: TrainConfig, need: Need) -> StepWork | None:
        """The work of a step against the peak rates; None where no rates are known."""
        if self._rates is None:
            return None
        accumulation, peaks = config.accumulation_steps, self._peaks or self._rates
        done = self._clock(config, need, peaks).amounts(need.work, accumulation)
        plain = self._plain(config)
        model = None if plain is None else self._clock(config, plain, peaks).amounts(plain.work, accumulation)
        factor = self.calibration.time_factor(config) or 1.0
        parts = self._clock(config, need, self._rates).parts(need.work, self._efficiency, accumulation)
        return StepWork(
            flops=done.flops,
            model_flops=None if model is None else model.flops,
            moved_bytes=done.moved_bytes,
            arithmetic_seconds=None if model is None else model.arithmetic_seconds,
            traffic_seconds=done.traffic_seconds,
            peaks="measured" if self._peaks is None else "published",
            seconds_by_part={name: seconds * factor for name, seconds in parts.items()},
        )

    def _plain(self, config: TrainConfig) -> Need | None:
        """The need of the same step with every activation kept and fused attention: what its model has to compute.

        None where a program decides either, and of a step that cannot be traced so.
        """
        changes: dict[str, KnobValue] = {CHECKPOINTING.name: CHECKPOINTING.reference}
        if PROGRAMS_OWN in (config[CHECKPOINTING.name], config["attention"]):
            return None
        if config["attention"] == PLAINEST and PLAIN in self._attentions:
            changes["attention"] = PLAIN
        with contextlib.suppress(CannotPredictError):
            return self._needs.of(config.replace(**changes))
        return None

    def _clock(self, config: TrainConfig, need: Need, rates: Rates) -> StepClock:
        return StepClock(
            rates,
            tf32=config["precision"] == "tf32",
            causal=task_named(self._workload.task).can_flatten,
            compiled=config["compile"] != "off",
            shares=need.shares,
        )


def _not_traced(config: TrainConfig) -> list[str]:
    """Choices that a configuration's trace does not show: it needs less than the trace says."""
    return _said(config, "not_traced")


def _said(config: TrainConfig, field: str) -> list[str]:
    said = [getattr(row.choice(config[row.name]), field) for row in KNOBS]
    return [sentence for sentence in said if sentence]
