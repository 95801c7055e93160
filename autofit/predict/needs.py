"""Needs of configurations, whatever the size of the card: blocks of memory and work, from traces."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from autofit.device.kinds import kind_of
from autofit.job.lengths import SampleLengths
from autofit.job.models import ModelSource
from autofit.job.situation import Situation
from autofit.job.tasks import task_named
from autofit.job.workload import Workload
from autofit.knobs import KNOBS, knob
from autofit.knobs.attention import PLAIN, PLAINEST
from autofit.knobs.optimizer import REFERENCE as REFERENCE_OPTIMIZER
from autofit.knobs.recipe import Recipe, recipe_for
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.predict.course import MicroStep, numbers_in
from autofit.predict.families import (
    Family,
    pair_for,
    shorter_length,
    traceable,
    with_update,
)
from autofit.predict.micro_batches import CannotPredictError, FilledShape, Layouts, MicroBatches
from autofit.predict.step_need import Need
from autofit.predict.step_time import Work, WorkShares
from autofit.predict.trace import Category, StepTrace
from autofit.predict.trace_request import TraceDocument, TraceRequest

TOKENS_OF_AN_IMAGE = 197
"""A vision transformer's at 224 x 224 pixels in patches of 16 x 16, for choosing how many rows are traced."""
UPDATE_LENGTH = 8
"""Tokens of the one sample with which an optimizer's update is traced."""
MOST_MICRO_STEPS = 3
"""Of several processes: the first, one that is like all between, and the last."""
_UNTRACED = {row.name for row in KNOBS if not row.is_traced}
"""Knobs in which configurations differ that need the same."""


class Keeper(Protocol):
    """Makes what predictions are made of, or finds it on the disk."""

    def traces(self, requests: Sequence[TraceRequest], /) -> list[TraceDocument]:
        """A document for each request, in order."""
        ...

    def micro_batches(
        self, model: ModelSource, workload: Workload, layouts: Sequence[Recipe], /
    ) -> list[MicroBatches] | None:
        """Micro-batches that each layout makes of the workload's samples, in order; None where no worker answers."""
        ...


class Needs:
    """Needs of the configurations of one situation; ``keeper`` has what they are made of.

    The situation's device decides by its kind and by whether torch's flash attention runs on it; its size does not
    matter.
    """

    def __init__(
        self, situation: Situation, model: ModelSource, keeper: Keeper, *, trust_remote_code: bool = False
    ) -> None:
        self._situation = situation
        self._kind = kind_of(situation.device)
        self._model = model
        self._keeper = keeper
        self._layouts = Layouts(situation, model, keeper.micro_batches)
        self._trust_remote_code = trust_remote_code
        self._known: dict[str, TraceDocument] = {}
        self._families: dict[tuple[str, ...], Family | None] = {}
        self._needs: dict[tuple[object, ...], Need] = {}

    def prepare(self, configs: Iterable[TrainConfig]) -> None:
        """Have the traces of many configurations made at once, side by side."""
        wanted = [config for config in configs if self._layouts.has(config) and not _why_never(config)]
        requests: dict[str, TraceRequest] = {}
        for config in wanted:
            for request in self._requests(config):
                requests.setdefault(_identity(request), request)
        self._fetch(requests)
        kinds = [(config, is_full) for config in wanted for is_full in self._kinds(config)]
        alone = [self._alone(config, is_full) for config, is_full in kinds if self._is_alone(config, is_full)]
        self._fetch({_identity(request): request for request in alone})

    def _fetch(self, requests: dict[str, TraceRequest]) -> None:
        # Updates first: importing an optimizer's package can take as long as a trace, and others are made meanwhile.
        ordered = sorted(requests.items(), key=lambda item: _optimizer(item[1]) == REFERENCE_OPTIMIZER)
        missing = {identity: request for identity, request in ordered if identity not in self._known}
        if missing:
            documents = self._keeper.traces(list(missing.values()))
            self._known.update(zip(missing, documents, strict=True))

    def of(self, config: TrainConfig) -> Need:
        """One configuration's need. Raises CannotPredictError."""
        key = tuple(config[name] for name in config if name not in _UNTRACED)
        if key not in self._needs:
            self.prepare([config])
            self._needs[key] = self._make(config)
        return self._needs[key]

    def _make(self, config: TrainConfig) -> Need:
        if reason := _why_never(config):
            raise CannotPredictError(reason)
        shapes, accumulation = self._layouts.of(config), config.accumulation_steps
        families = self._families_of(config)

        def family_of(shape: FilledShape) -> Family:
            return families.get(shape.is_full) or next(iter(families.values()))

        def micro_step(shape: FilledShape) -> MicroStep:
            family = family_of(shape)
            return MicroStep(family.builder, family.sizes(*self._in_family(family, config, shape)))

        steps = {
            shape: family_of(shape).builder.steady_step(accumulation, micro_step(shape).sizes) for shape in shapes.worst
        }
        worst = max(steps, key=lambda shape: steps[shape].peak_bytes)

        def course() -> Iterator[list[MicroStep]]:
            known = {shape: micro_step(shape) for shape in shapes.all}
            for step in shapes.in_order:
                yield [known[shape] for shape in step]
            for shape in shapes.worst:
                if shape != worst:
                    yield [known[shape]] * min(2, accumulation)

        categories = steps[worst].peak_by_category()
        paged = categories[Category.OPTIMIZER_STATE] if knob("optimizer").choice(config["optimizer"]).paged_state else 0
        if paged:
            categories[Category.OPTIMIZER_STATE] = 0
        work, shares = self._work(config, shapes, family_of(shapes.usual), worst)
        return Need(
            bytes_by_category=categories,
            paged_bytes=paged,
            work=work,
            shares=shares,
            worst=micro_step(worst),
            accumulation=accumulation,
            course=course,
            exchanged_bytes=family_of(worst).exchanged_bytes(accumulation),
        )

    def _work(
        self, config: TrainConfig, shapes: MicroBatches, family: Family, worst: FilledShape
    ) -> tuple[Work, WorkShares]:
        """Work of the worst micro-batch as ``family`` has it, and the mean one's shares of that."""
        # What one trace tells is told of its own rows, whatever the shape.
        rows = family.rows_told(worst.padded_tokens / self._longest)
        shares = WorkShares(
            length=shapes.mean_tokens / (rows * self._longest),
            scores=shapes.mean_scores / (self._squares(family, config, rows) * self._longest**2),
        )
        return family.work(rows), shares

    def _families_of(self, config: TrainConfig) -> dict[bool, Family]:
        """Families of a configuration's micro-batches: of those that fill their rows (True), and of those with padding.

        One stands for both where the other cannot be traced, or where the blocks that outlive a micro-step cannot be
        paired. Raises CannotPredictError where there is none.
        """
        families: dict[bool, Family] = {}
        refusal: CannotPredictError | None = None
        for is_full in self._kinds(config):
            try:
                family = self._family(config, is_full)
            except CannotPredictError as error:
                refusal = refusal or error
                continue
            if all(numbers_in(each.builder, family.builder) is not None for each in families.values()):
                families[is_full] = family
        if not families:
            assert refusal is not None
            raise refusal
        return families

    def _kinds(self, config: TrainConfig) -> list[bool]:
        """True for micro-batches that fill their rows, False for others: that of most tokens first."""
        shapes = self._layouts.of(config)
        if self._situation.workload.processes > 1:
            # Their micro-steps are traced one behind another, all of one kind.
            return [all(shape.is_full for shape in shapes.all)]
        # The host's allocator is not simulated: what is not worst does not matter.
        every = shapes.all if self._kind.caches_memory else shapes.worst
        return list(dict.fromkeys(shape.is_full for shape in (*shapes.worst, *every)))

    def _family(self, config: TrainConfig, is_full: bool) -> Family:
        family = self._family_of_all_sizes(config, is_full)
        if family is None:
            alone = self._alone(config, is_full)
            family = self._make_family([len(alone.micro_batch)], self._with_update(config, self._trace(alone)))
        return family

    def _family_of_all_sizes(self, config: TrainConfig, is_full: bool) -> Family | None:
        """None where its two traces are not alike, event by event: each size is then traced for itself."""
        requests = self._micro_step_requests(config, is_full)
        key = (*(_identity(request) for request in requests if request), self._traced_optimizer(config))
        if key not in self._families:
            few, many = (
                None if request is None else self._with_update(config, self._trace(request)) for request in requests[:2]
            )
            assert few is not None
            shorter = None
            with contextlib.suppress(CannotPredictError):
                if requests[2] is not None:
                    shorter = self._with_update(config, self._trace(requests[2]))
            if shorter is not None and not Family.are_alike(few, shorter):
                shorter = None
            alike = many is None or Family.are_alike(few, many)
            rows = [len(request.micro_batch) for request in requests[:2] if request is not None]
            self._families[key] = self._make_family(rows, few, many, shorter) if alike else None
        return self._families[key]

    def _is_alone(self, config: TrainConfig, is_full: bool) -> bool:
        try:
            return self._family_of_all_sizes(config, is_full) is None
        except CannotPredictError:
            return False

    def _alone(self, config: TrainConfig, is_full: bool) -> TraceRequest:
        """A trace of as many of the longest samples as the worst micro-batch has tokens of."""
        tokens = max(shape.padded_tokens for shape in self._layouts.of(config).worst)
        return self._micro_step_request(config, -(-tokens // self._longest), self._longest, is_full)

    def _make_family(
        self,
        rows: Sequence[int],
        few: StepTrace,
        many: StepTrace | None = None,
        shorter: StepTrace | None = None,
    ) -> Family:
        ahead = int(self._kind.is_host)
        return Family(few, many, inputs_ahead=ahead, rows=rows, shorter=shorter)

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
        of_kinds = (self._micro_step_requests(config, is_full) for is_full in self._kinds(config))
        requests = [request for request in itertools.chain.from_iterable(of_kinds) if request is not None]
        if self._traced_optimizer(config) != REFERENCE_OPTIMIZER:
            requests.append(self._update_request(config))
        return requests

    def _traced_optimizer(self, config: TrainConfig) -> str:
        """The optimizer whose update stands for the configuration's."""
        value = config["optimizer"]
        return knob("optimizer").choice(value).traced_as or str(value)

    def _micro_step_requests(
        self, config: TrainConfig, is_full: bool
    ) -> tuple[TraceRequest, TraceRequest | None, TraceRequest | None]:
        """Few rows of the longest samples, more of them, and as many of shorter ones; None for what tells nothing."""
        shapes, size, longest = self._layouts.of(config), config.micro_batch_size, self._longest
        every = shapes.all if self._kind.caches_memory else set(shapes.worst)
        if len(self._kinds(config)) > 1:
            every = {shape for shape in every if shape.is_full == is_full}
        varies = any(shape.length != longest or shape.rows != size for shape in every)
        pair = self._pair(config)
        few, many = (size, None) if size == 1 or (size in pair and not varies) else pair
        shorter = None
        # In a flattened row shorter samples are fewer tokens, as fewer samples are.
        if varies and not (self._flattens(config) and many):
            shorter = shorter_length(many or few, longest, on_cuda=self._kind.traced_as == "cuda")
        return (
            self._micro_step_request(config, few, longest, is_full),
            None if many is None else self._micro_step_request(config, many, longest, is_full),
            None if shorter is None else self._micro_step_request(config, many or few, shorter, is_full),
        )

    def _in_family(self, family: Family, config: TrainConfig, shape: FilledShape) -> tuple[float, int]:
        """Rows and length of a shape as its family counts them: by its tokens where lengths tell the family nothing."""
        if not family.has_lengths or (self._flattens(config) and config.micro_batch_size > 1):
            return shape.padded_tokens / self._longest, self._longest
        return shape.rows, shape.length

    def _squares(self, family: Family, config: TrainConfig, rows: float) -> float:
        """Squares of the longest length that attention works on in a traced micro-batch of so many rows.

        On CUDA a flattened row is traced as one document, and its family is affine between its two traces.
        """
        if not self._flattens(config) or self._kind.traced_as == "cpu":
            return rows
        return family.between_squares(rows)

    @staticmethod
    def _flattens(config: TrainConfig) -> bool:
        return knob("batch_layout").choice(config["batch_layout"]).collator == "DataCollatorWithFlattening"

    @property
    def _longest(self) -> int:
        return self._situation.workload.lengths.longest

    def _pair(self, config: TrainConfig) -> tuple[int, int]:
        rows = max(shape.padded_tokens for shape in self._layouts.of(config).worst) / self._longest
        reads_images = task_named(self._situation.workload.task).reads == "images"
        tokens = TOKENS_OF_AN_IMAGE if reads_images else self._longest
        return pair_for(rows, tokens, on_cuda=self._kind.traced_as == "cuda")

    def _micro_step_request(self, config: TrainConfig, rows: int, length: int, is_full: bool) -> TraceRequest:
        recipe = traceable(recipe_for(config, self._situation), optimizer=REFERENCE_OPTIMIZER)
        program = self._situation.program
        fills_rows = is_full and (program is None or not program.shares_rows)
        # The gradients of several processes are put together in the last micro-step, which is like no other.
        micro_steps = min(MOST_MICRO_STEPS, config.accumulation_steps) if recipe.processes > 1 else 1
        return self._request(recipe, (length,) * rows, truth=fills_rows, micro_steps=micro_steps)

    def _update_request(self, config: TrainConfig) -> TraceRequest:
        attention = PLAIN if PLAIN in self._situation.model.attention else PLAINEST
        wanted: dict[str, KnobValue] = {
            "attention": attention, "activation_checkpointing": "off", "batch_layout": "dynamic_padding",
            "kernels": "default", "compile": "off",
        }  # fmt: skip
        program = self._situation.program
        plain = config.replace(**{name: wanted[name] for name in wanted if program is None or name not in program.own})
        recipe = traceable(recipe_for(plain, self._situation), optimizer=self._traced_optimizer(config))
        length = min(UPDATE_LENGTH, self._situation.workload.lengths.longest)
        return self._request(recipe, (length,), truth=True)

    def _request(
        self, recipe: Recipe, micro_batch: tuple[int, ...], *, truth: bool, micro_steps: int = 1
    ) -> TraceRequest:
        device, workload = self._situation.device, self._situation.workload
        plain = replace(workload, lengths=SampleLengths.fixed(max(micro_batch)), effective_batch=1, processes=1)
        return TraceRequest(
            model=self._model,
            workload=plain,
            recipe=recipe,
            micro_batch=micro_batch,
            path="",
            truth=truth,
            micro_steps=micro_steps,
            target=self._kind.traced_as,
            compute_capability=device.compute_capability or (8, 0),
            trust_remote_code=self._trust_remote_code,
        )


def _why_never(config: TrainConfig) -> str:
    """Reason why nothing is predicted of a configuration, whatever its layout; empty where something is."""
    return next(filter(None, (row.choice(config[row.name]).not_predicted for row in KNOBS)), "")


def _identity(request: TraceRequest) -> str:
    return request.key({})


def _optimizer(request: TraceRequest) -> str:
    return str(request.recipe.training_arguments["optim"])
