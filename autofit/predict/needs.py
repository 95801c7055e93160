"""What configurations need, whatever the size of the card: blocks of memory and work, from traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autofit.catalogue.models import ModelSource
from autofit.knobs import knob
from autofit.lengths import SampleLengths
from autofit.predict.allocator import AllocatorPeaks, CachingAllocator, SimulatedOutOfMemoryError
from autofit.predict.expected_load import rows_of_longest
from autofit.predict.families import FIRST_PAIR, REFERENCE_OPTIMIZER, Family, pair_for, traceable, with_update
from autofit.predict.request import TraceDocument, TraceRequest
from autofit.predict.step_time import Work
from autofit.predict.timeline import Integers, StepBuilder, Timeline
from autofit.recipe import Recipe, recipe_for
from autofit.situation import Situation
from autofit.trace import Category, Phase, StepTrace
from autofit.train_config import TrainConfig

UPDATE_LENGTH = 8
"""Tokens of the one sample with which an optimizer's update is traced."""
STATE_BY_FORMULA = ("adamw_torch_8bit", "adamw_torch_4bit")
"""Optimizers whose state are tensor subclasses, which are not traced: fused AdamW's update, its state's size scaled."""

_SAME_UPDATE = {
    "paged_adamw_8bit": "adamw_8bit",
    **dict.fromkeys(STATE_BY_FORMULA, REFERENCE_OPTIMIZER),
}

Traces = Callable[[Sequence[TraceRequest]], list[TraceDocument]]


class CannotPredictError(Exception):
    """There is no trace of this; the text is a sentence that says why."""


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """What the simulated allocator came to; ``retries_when_warm`` counts how often a step of a running training has to
    give cached segments back before it goes on. ``allocated_bytes`` is torch's own peak of allocated memory: what is
    alive, and what its blocks have beyond that."""

    peak_bytes: int
    allocated_bytes: int
    is_out_of_memory: bool
    retries_when_warm: int

    @classmethod
    def of(cls, peaks: AllocatorPeaks, *, retries_when_warm: int) -> Reserved:
        """Of an allocator that never ran out."""
        return cls(
            peak_bytes=peaks.reserved,
            allocated_bytes=peaks.allocated,
            is_out_of_memory=False,
            retries_when_warm=retries_when_warm,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Need:
    """One configuration's. ``bytes_by_category`` is what is alive at the peak on the device, and adds up to
    ``live_bytes``; ``paged_bytes`` is optimizer state that may leave the device and is part of neither."""

    bytes_by_category: dict[Category, int]
    paged_bytes: int
    work: Work
    builder: StepBuilder
    sizes: Integers
    accumulation: int

    @property
    def live_bytes(self) -> int:
        """The most that is alive at once."""
        return sum(self.bytes_by_category.values())

    def phase_peaks(self) -> dict[str, int]:
        """The most that is alive in each phase of a steady step, paged state included."""
        peaks = self.builder.steady_step(self.accumulation, self.sizes).phase_peaks()
        return {phase.name.lower(): size for phase, size in peaks.items()}

    def largest_blocks(self, most: int) -> tuple[tuple[int, str, str, int], ...]:
        """What is alive at the peak, equal blocks together: bytes, operator, category, how many; the largest first."""
        blocks = self.builder.steady_step(self.accumulation, self.sizes).alive_at_peak()
        makers = self.builder.trace.makers
        groups = Counter(
            (size, makers[block] if block < len(makers) else "collator", Category(category).name.lower())
            for block, size, category in blocks
        )
        largest = sorted(groups.items(), key=lambda item: -item[0][0] * item[1])[:most]
        return tuple((size, maker, category, number) for (size, maker, category), number in largest)

    def on_allocator(self, *, limit: int, expandable: bool, workspaces: int = 0) -> Reserved:
        """What CUDA's allocator does with it under a limit, over three optimizer steps, libraries' workspaces included.

        The first step makes the optimizer's state, the second finds it; what the third asks for, all others ask for.
        Half of ``workspaces`` (bytes) is the main thread's, taken as the first forward pass begins, half autograd's,
        taken as the first backward pass does.
        """
        is_paged = self.paged_bytes > 0
        first = _without_state(self.builder.first_step(self.accumulation, self.sizes), is_paged)
        steady = _without_state(self.builder.steady_step(self.accumulation, self.sizes), is_paged)
        allocator = CachingAllocator(limit=limit, expandable=expandable)
        own, others = first.sizes.tolist(), steady.sizes.tolist()
        workspace = len(own) + 2 * len(others)
        begins = [int((first.phases == phase).argmax()) for phase in (Phase.FORWARD, Phase.BACKWARD)]
        try:
            for number, part in enumerate(np.split(first.events, begins)):
                if number:
                    allocator.take(workspace + number, workspaces // len(begins))
                allocator.play(part.tolist(), own)
            allocator.play(_going_on(steady, len(own)), [*own, *others])
            before = allocator.peaks.retries
            if not before:
                # Nothing had to give way, so nothing will: a third step finds its blocks where the second left them.
                return Reserved.of(allocator.peaks, retries_when_warm=0)
            allocator.play(_going_on(steady, len(own) + len(others), before=len(own)), [*own, *others, *others])
        except SimulatedOutOfMemoryError:
            return Reserved(
                peak_bytes=limit, allocated_bytes=allocator.peaks.allocated, is_out_of_memory=True, retries_when_warm=0
            )
        return Reserved.of(allocator.peaks, retries_when_warm=allocator.peaks.retries - before)


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
        self._families: dict[tuple[str, ...], Family | None] = {}
        self._needs: dict[tuple[object, ...], Need] = {}

    def prepare(self, configs: Iterable[TrainConfig]) -> None:
        """Have the traces of many configurations made at once, side by side."""
        wanted = list(configs)
        requests: dict[str, TraceRequest] = {}
        for config in wanted:
            for request in self._requests(config):
                requests.setdefault(_identity(request), request)
        self._fetch(requests)
        alone = [self._alone(config) for config in wanted if self._is_alone(config)]
        self._fetch({_identity(request): request for request in alone})

    def _fetch(self, requests: dict[str, TraceRequest]) -> None:
        # Updates first: importing an optimizer's package can take as long as a trace, and others are made meanwhile.
        ordered = sorted(requests.items(), key=lambda item: _optimizer(item[1]) == REFERENCE_OPTIMIZER)
        missing = {identity: request for identity, request in ordered if identity not in self._known}
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
        family, rows = self._family(config)
        choice = knob("optimizer").choice(config["optimizer"])
        sizes = family.sizes(rows)
        accumulation = config.accumulation_steps
        if config["optimizer"] in STATE_BY_FORMULA:
            traced = 4 if config["precision"] == "pure_bf16" else 8  # bytes a parameter, of fused AdamW
            is_state = family.builder.categories == Category.OPTIMIZER_STATE
            sizes = np.where(is_state, np.rint(sizes * choice.state_bytes / traced).astype(np.int64), sizes)
        categories = family.builder.steady_step(accumulation, sizes).peak_by_category()
        paged = categories[Category.OPTIMIZER_STATE] if choice.paged_state else 0
        if paged:
            categories[Category.OPTIMIZER_STATE] = 0
        return Need(
            bytes_by_category=categories,
            paged_bytes=paged,
            work=family.work(rows),
            builder=family.builder,
            sizes=sizes,
            accumulation=accumulation,
        )

    def _family(self, config: TrainConfig) -> tuple[Family, float]:
        """The family of a configuration, and its rows in it."""
        family = self._family_of_all_sizes(config)
        if family is None:
            family = self._make_family([self._with_update(config, self._trace(self._alone(config)))])
        return family, self._rows(config)

    def _family_of_all_sizes(self, config: TrainConfig) -> Family | None:
        """None where its two traces are not alike, event by event: each size is then traced for itself."""
        requests = self._micro_step_requests(config)
        key = (*map(_identity, requests), self._traced_optimizer(config))
        if key not in self._families:
            traces = [self._with_update(config, self._trace(request)) for request in requests]
            alike = len(traces) == 1 or Family.are_alike(traces[0], traces[1])
            self._families[key] = self._make_family(traces, self._pair(config)) if alike else None
        return self._families[key]

    def _is_alone(self, config: TrainConfig) -> bool:
        try:
            return self._family_of_all_sizes(config) is None
        except CannotPredictError:
            return False

    def _alone(self, config: TrainConfig) -> TraceRequest:
        return self._micro_step_request(config, config.micro_batch_size)

    def _make_family(self, traces: Sequence[StepTrace], pair: tuple[int, int] = FIRST_PAIR) -> Family:
        few, many = traces[0], traces[1] if len(traces) > 1 else None
        return Family(few, many, inputs_ahead=int(self._situation.device.kind == "cpu"), pair=pair)

    def _with_update(self, config: TrainConfig, trace: StepTrace) -> StepTrace:
        if self._traced_optimizer(config) == REFERENCE_OPTIMIZER:
            return trace
        whole = with_update(trace, self._trace(self._update_request(config)))
        if whole is None:
            raise CannotPredictError("its optimizer step could not be matched with its forward and backward pass")
        return whole

    def _trace(self, request: TraceRequest) -> StepTrace:
        document = self._known[_identity(request)]
        if document.trace is None:
            raise CannotPredictError(document.refusal)
        return document.trace

    def _requests(self, config: TrainConfig) -> list[TraceRequest]:
        requests = self._micro_step_requests(config)
        if self._traced_optimizer(config) != REFERENCE_OPTIMIZER:
            requests.append(self._update_request(config))
        return requests

    def _traced_optimizer(self, config: TrainConfig) -> str:
        """Which optimizer's update stands for the configuration's: a paged state has the blocks of one that is not."""
        return _SAME_UPDATE.get(str(config["optimizer"]), str(config["optimizer"]))

    def _micro_step_requests(self, config: TrainConfig) -> list[TraceRequest]:
        size, wanted, pair = config.micro_batch_size, self._rows(config), self._pair(config)
        rows = (size,) if size in (1, *pair) and wanted == size else pair
        return [self._micro_step_request(config, number) for number in rows]

    def _rows(self, config: TrainConfig) -> float:
        """The worst micro-batch as a number of samples of the longest length."""
        lengths = self._situation.workload.lengths
        return rows_of_longest(str(config["batch_layout"]), config.micro_batch_size, lengths)

    def _pair(self, config: TrainConfig) -> tuple[int, int]:
        longest = self._situation.workload.lengths.longest
        return pair_for(self._rows(config), longest, on_cuda=self._situation.device.kind != "cpu")

    def _micro_step_request(self, config: TrainConfig, rows: int) -> TraceRequest:
        lengths = self._situation.workload.lengths
        recipe = traceable(recipe_for(config, self._situation), optimizer=REFERENCE_OPTIMIZER)
        # A sample alone in its micro-batch fills its row, unless rows have one length.
        is_alone = rows == 1 and "length" not in recipe.collator_kwargs
        fills_rows = recipe.collator == "PadRight" and (lengths.all_equal or is_alone)
        return self._request(recipe, (lengths.longest,) * rows, truth=fills_rows)

    def _update_request(self, config: TrainConfig) -> TraceRequest:
        attention = "sdpa" if "sdpa" in self._situation.model.attention else "eager"
        plain = config.replace(
            attention=attention, activation_checkpointing="off", batch_layout="dynamic_padding", kernels="default",
            compile="off",
        )  # fmt: skip
        recipe = traceable(recipe_for(plain, self._situation), optimizer=self._traced_optimizer(config))
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


def _without_state(timeline: Timeline, is_paged: bool) -> Timeline:
    """Without the blocks of a paged optimizer's state: they are not the allocator's."""
    if not is_paged:
        return timeline
    return replace(timeline, sizes=np.where(timeline.categories == Category.OPTIMIZER_STATE, 0, timeline.sizes))


def _going_on(steady: Timeline, shift: int, before: int | None = None) -> list[int]:
    """A steady step's events after other steps, with numbers of their own from ``shift`` on for the blocks that it
    takes itself; ``before`` is how many blocks the first step numbered."""
    known = int((steady.phases == Phase.BEFORE).sum())
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
        elif block < (shift if before is None else before):
            events.append(event)
    return events


def _optimizer(request: TraceRequest) -> str:
    return str(request.recipe.training_arguments["optim"])
