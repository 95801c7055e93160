"""What configurations need, whatever the size of the card: blocks of memory and work, from traces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autofit.catalogue.models import ModelSource
from autofit.knobs import knob
from autofit.lengths import SampleLengths
from autofit.predict.allocator import CachingAllocator
from autofit.predict.expected_load import rows_of_longest
from autofit.predict.families import REFERENCE_OPTIMIZER, ROWS_OF_A_PAIR, at_rows, traceable, with_update
from autofit.predict.request import TraceDocument, TraceRequest
from autofit.predict.timeline import StepBuilder, Timeline
from autofit.recipe import Recipe, recipe_for
from autofit.situation import Situation
from autofit.trace import Category, Operators, StepTrace
from autofit.train_config import TrainConfig

UPDATE_LENGTH = 8
"""Tokens of the one sample with which an optimizer's update is traced."""
STATE_BY_FORMULA = ("adamw_torch_8bit", "adamw_torch_4bit")
"""Optimizers whose state are tensor subclasses, which are not traced: fused AdamW's update with the state's size scaled."""

Traces = Callable[[Sequence[TraceRequest]], list[TraceDocument]]


class CannotPredictError(Exception):
    """There is no trace of this; the text is a sentence that says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Need:
    """One configuration's. ``bytes_by_category`` is what is alive at the peak on the device, and adds up to
    ``live_bytes``; ``paged_bytes`` is optimizer state that may leave the device and is part of neither."""

    bytes_by_category: dict[Category, int]
    paged_bytes: int
    operators: Operators
    builder: StepBuilder
    accumulation: int

    @property
    def live_bytes(self) -> int:
        """The most that is alive at once."""
        return sum(self.bytes_by_category.values())

    def allocator_slack(self, *, expandable: bool) -> int:
        """What the CUDA allocator reserves at most beyond what is alive at most, over the first two steps."""
        is_paged = self.paged_bytes > 0
        first = _without_state(self.builder.first_step(self.accumulation), is_paged)
        steady = _without_state(self.builder.steady_step(self.accumulation), is_paged)
        allocator = CachingAllocator(expandable=expandable)
        allocator.play(first.events.tolist(), first.sizes.tolist())
        # The second step goes on where the first ended: what was there before is not taken again.
        events = _going_on(steady, len(first.sizes))
        peaks = allocator.play(events, [*first.sizes.tolist(), *steady.sizes.tolist()])
        return max(0, peaks.reserved - self.live_bytes)


class Needs:
    """Needs of the configurations of one situation; ``traces`` makes traces, or finds them on the disk.

    The situation's device decides by its kind and by whether torch's flash attention runs on it; its size does not
    matter.
    """

    def __init__(
        self, situation: Situation, model: ModelSource, traces: Traces, *, trust_remote_code: bool = False
    ) -> None:
        self._situation = situation
        self._model = model
        self._traces = traces
        self._trust_remote_code = trust_remote_code
        self._known: dict[str, TraceDocument] = {}
        self._needs: dict[tuple[object, ...], Need] = {}

    def prepare(self, configs: Iterable[TrainConfig]) -> None:
        """Have the traces of many configurations made at once, side by side."""
        requests: dict[str, TraceRequest] = {}
        for config in configs:
            for request in self._requests(config):
                requests.setdefault(_identity(request), request)
        missing = {identity: request for identity, request in requests.items() if identity not in self._known}
        if missing:
            documents = self._traces(list(missing.values()))
            self._known.update(zip(missing, documents, strict=True))

    def of(self, config: TrainConfig) -> Need:
        """One configuration's need. Raises CannotPredictError."""
        # The allocator, compiling and fused kernels are not traced: configurations that differ in them need the same.
        key = tuple(config[name] for name in config if name not in ("allocator", "compile", "kernels"))
        if key not in self._needs:
            self.prepare([config])
            self._needs[key] = self._make(config)
        return self._needs[key]

    def _make(self, config: TrainConfig) -> Need:
        trace = self._micro_step(config)
        if config["optimizer"] not in (REFERENCE_OPTIMIZER, *STATE_BY_FORMULA):
            whole = with_update(trace, self._trace(self._update_request(config)))
            if whole is None:
                raise CannotPredictError("the optimizer's update was traced over other weights than the step")
            trace = whole
        choice = knob("optimizer").choice(config["optimizer"])
        if config["optimizer"] in STATE_BY_FORMULA:
            trace = replace(trace, sizes=_scaled(trace, Category.OPTIMIZER_STATE, choice.state_bytes / 8))
        builder = StepBuilder(trace, inputs_ahead=int(self._situation.device.kind == "cpu"))
        categories = builder.steady_step(config.accumulation_steps).peak_by_category()
        paged = categories[Category.OPTIMIZER_STATE] if choice.paged_state else 0
        if paged:
            categories[Category.OPTIMIZER_STATE] = 0
        return Need(
            bytes_by_category=categories,
            paged_bytes=paged,
            operators=trace.operators,
            builder=builder,
            accumulation=config.accumulation_steps,
        )

    def _micro_step(self, config: TrainConfig) -> StepTrace:
        requests = self._micro_step_requests(config)
        if len(requests) == 1:
            return self._trace(requests[0])
        rows = rows_of_longest(str(config["batch_layout"]), config.micro_batch_size, self._situation.workload.lengths)
        between = at_rows(self._trace(requests[0]), self._trace(requests[1]), rows)
        if between is not None:
            return between
        # The two are not alike, event by event: this size is traced for itself.
        alone = self._micro_step_request(config, config.micro_batch_size)
        if _identity(alone) not in self._known:
            self._known[_identity(alone)] = self._traces([alone])[0]
        return self._trace(alone)

    def _trace(self, request: TraceRequest) -> StepTrace:
        document = self._known[_identity(request)]
        if document.trace is None:
            raise CannotPredictError(document.refusal)
        return document.trace

    def _requests(self, config: TrainConfig) -> list[TraceRequest]:
        requests = self._micro_step_requests(config)
        if config["optimizer"] not in (REFERENCE_OPTIMIZER, *STATE_BY_FORMULA):
            requests.append(self._update_request(config))
        return requests

    def _micro_step_requests(self, config: TrainConfig) -> list[TraceRequest]:
        rows = (1,) if config.micro_batch_size == 1 else ROWS_OF_A_PAIR
        return [self._micro_step_request(config, number) for number in rows]

    def _micro_step_request(self, config: TrainConfig, rows: int) -> TraceRequest:
        lengths = self._situation.workload.lengths
        recipe = traceable(recipe_for(config, self._situation), optimizer=REFERENCE_OPTIMIZER)
        fills_rows = lengths.all_equal and recipe.collator == "PadRight"
        return self._request(recipe, (lengths.longest,) * rows, truth=fills_rows)

    def _update_request(self, config: TrainConfig) -> TraceRequest:
        attention = "sdpa" if "sdpa" in self._situation.model.attention else "eager"
        plain = config.replace(
            attention=attention, activation_checkpointing="off", batch_layout="dynamic_padding", kernels="default",
            compile="off",
        )  # fmt: skip
        recipe = traceable(recipe_for(plain, self._situation), optimizer=str(config["optimizer"]))
        length = min(UPDATE_LENGTH, self._situation.workload.lengths.longest)
        return self._request(recipe, (length,), truth=True)

    def _request(self, recipe: Recipe, micro_batch: tuple[int, ...], *, truth: bool) -> TraceRequest:
        device, workload = self._situation.device, self._situation.workload
        plain = replace(workload, lengths=SampleLengths.fixed(max(micro_batch)), effective_batch=1, processes=1)
        return TraceRequest(
            model=self._model,
            workload=plain,
            recipe=recipe,
            micro_batch=micro_batch,
            path="",
            truth=truth,
            target="cpu" if device.kind == "cpu" else "cuda",
            compute_capability=device.compute_capability or (8, 0),
            trust_remote_code=self._trust_remote_code,
        )


def _identity(request: TraceRequest) -> str:
    return request.key({})


def _scaled(trace: StepTrace, category: Category, share: float) -> tuple[int, ...]:
    return tuple(
        round(size * share) if each == category else size
        for size, each in zip(trace.sizes, trace.categories, strict=True)
    )


def _without_state(timeline: Timeline, is_paged: bool) -> Timeline:
    """Without the blocks of a paged optimizer's state: they are not the allocator's."""
    if not is_paged:
        return timeline
    return replace(timeline, sizes=np.where(timeline.categories == Category.OPTIMIZER_STATE, 0, timeline.sizes))


def _going_on(steady: Timeline, shift: int) -> list[int]:
    """A steady step's events after a first step, with numbers of their own for the blocks that it takes itself."""
    known = int((steady.phases == 0).sum())
    own: set[int] = set()
    events = []
    for event in steady.events[known:].tolist():
        block = abs(event) - 1
        if event > 0:
            own.add(block)
            events.append(event + shift)
        elif block in own:
            own.discard(block)
            events.append(event - shift)
        elif block < shift:
            events.append(event)
    return events
