"""``autofit.plan`` and ``autofit.estimate``: what fits on cards that are not here, and how fast it is."""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import msgspec

from autofit.device.gpus import find_gpu
from autofit.device.kinds import kind_of
from autofit.errors import UserError
from autofit.job.record import StudyRecord, home
from autofit.job.request import JobKeywords, JobRequest
from autofit.job.situation import Limits, Situation
from autofit.knobs.activation_checkpointing import NAME as CHECKPOINTING
from autofit.knobs.allocator import EXPANDABLE
from autofit.knobs.attention import TORCH_VARLEN
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.static_bytes import surely_needs
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.planning.candidates import (
    FIRST_RUNGS,
    LADDER_BETWEEN,
    candidates_of,
    leanest_of,
    reference_of,
)
from autofit.planning.cards import cards_of
from autofit.planning.progress import Progress
from autofit.planning.result import Card, CardPlan, Estimate, Help, Plan, PlannedConfig, keep_plan, read_plan
from autofit.predict.micro_batches import FORMAT as BATCHES_FORMAT
from autofit.predict.micro_batches import FORMAT_OF_SEVERAL, CannotPredictError
from autofit.predict.needs import Needs
from autofit.predict.predictor import Predictor
from autofit.predict.step_time import OF_POWER_LIMITED_CARDS, OF_PUBLISHED_PEAKS
from autofit.predict.trace_request import FORMAT as TRACE_FORMAT
from autofit.predict.trace_request import has_flash_attention
from autofit.study.prediction import Verdict
from autofit.trial.protocol import read_document, write_document
from autofit.trial.traces import TraceKeeper
from autofit.trial.workshop import Workshop, probe
from autofit.units import share_of
from autofit.version import __version__

FORMATS = (TRACE_FORMAT, BATCHES_FORMAT, FORMAT_OF_SEVERAL)
"""Of what plans are made of: kept plans of other ones are not read."""
SHOWN = 3
"""Configurations planned for each card."""
MOST_SIMULATED = 8
"""Of the fastest candidates, how many are played through the allocator before the rest is left."""
FIRST_SIZES, LATER_SIZES, ALL_SIZES = range(2, 4), range(2, 2**31), range(1, 2**31)


def plan(
    model: str,
    *,
    effective_batch: int,
    gpus: Sequence[str] = (),
    memory: str | int | None = None,
    headroom: str | float = 0.05,
    numerics: str = "standard",
    fix: Mapping[str, KnobValue] | None = None,
    allow: Mapping[str, Sequence[KnobValue]] | None = None,
    forbid: Mapping[str, Sequence[KnobValue]] | None = None,
    prices: Mapping[str, float] | None = None,
    progress: Progress | None = None,
    **job: Unpack[JobKeywords],
) -> Plan:
    """Plan of what fits on each of ``gpus`` (names of the catalogue, or ``"all"``), or on a card of ``memory`` bytes.

    ``prices`` maps a card's name to the price of its hour. ``job`` takes what ``autofit.search`` takes of the
    training job: ``seq_len``, ``data``, ``method`` and so on. Nothing is run and no weights are fetched.
    Raises UserError for a request that cannot be carried out.
    """
    began = time.monotonic()
    cards = cards_of(gpus, memory, prices or {})
    request = SpaceRequest.of(numerics, fix, allow, forbid)
    share = share_of(headroom)
    asked = JobRequest(model=model, effective_batch=effective_batch, device="cpu", **job)
    record = asked.record()
    kept = home() / "plans" / f"{_digest(record, record.workload, cards, request, share, __version__, FORMATS)}.json"
    known = read_plan(kept)
    if known is not None:
        return replace(known, seconds=time.monotonic() - began)
    with _Site(record, share, progress or Progress()) as site:
        plans = _Planner(asked, record, site).plan(cards, request)
    made = Plan(
        workload=record.workload,
        versions=record.versions,
        headroom=share,
        cards=tuple(plans),
        seconds=time.monotonic() - began,
    )
    keep_plan(kept, made)
    return made


def estimate(
    model: str,
    *,
    effective_batch: int,
    gpu: str | None = None,
    memory: str | int | None = None,
    headroom: str | float = 0.05,
    fix: Mapping[str, KnobValue] | None = None,
    progress: Progress | None = None,
    **job: Unpack[JobKeywords],
) -> Estimate:
    """One configuration, byte by byte: the values of ``fix``, and for other knobs what ``plan`` looks at first.

    Raises UserError where the configuration is not valid or cannot be predicted.
    """
    cards = cards_of((gpu,) if gpu else (), memory, {})
    if len(cards) > 1:
        raise UserError("An estimate is for one card: give either --gpu with one name, or --memory.")
    (card,) = cards
    asked = JobRequest(model=model, effective_batch=effective_batch, device="cpu", **job)
    record = asked.record()
    with _Site(record, share_of(headroom), progress or Progress()) as site:
        return _Planner(asked, record, site).estimate(card, {name: str(value) for name, value in (fix or {}).items()})


class _Site:
    """The worker and the traces of one planning, which every request that is planned in it shares."""

    def __init__(self, record: StudyRecord, headroom: float, progress: Progress) -> None:
        self.headroom = headroom
        self.progress = progress
        self.keeper = TraceKeeper(home() / "traces", record.versions, self.workshop, progress.traced)
        self._open: Workshop | None = None

    def workshop(self) -> Workshop:
        """The worker, started where it is needed first."""
        if self._open is None:
            self._open = Workshop(kind_of("cpu"), 0, home() / "logs" / f"plan-{os.getpid()}", self.progress.say)
        return self._open

    def __enter__(self) -> _Site:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._open is not None:
            self._open.close()


class _Planner:
    """Plans of one request: the facts of its model once, its needs once for each kind of card."""

    def __init__(self, request: JobRequest, record: StudyRecord, site: _Site) -> None:
        self._request = request
        self._record = record
        self._site = site
        self._changed: dict[str, _Planner] = {}
        self._found: Situation | None = None
        self._needs: dict[bool, Needs] = {}

    @property
    def _all_is_trained(self) -> bool:
        """False for models of several parts, of which a task may leave some without a gradient."""
        return not any(name in self._record.model.config for name in ("vision_config", "audio_config"))

    def plan(self, cards: Sequence[Card], request: SpaceRequest) -> list[CardPlan]:
        """The first rungs of the ladder for every card, then those between where they may be faster."""
        spaces: list[tuple[Card, SearchSpace | None, str]] = []
        for card in cards:
            try:
                spaces.append((card, SearchSpace(self._situation(card), request), ""))
            except UserError as error:
                spaces.append((card, None, str(error)))
        planned = [number for number, (_, space, _) in enumerate(spaces) if space is not None]
        plans = {
            number: CardPlan(card=card, configs=(), refusal=refusal) for number, (card, _, refusal) in enumerate(spaces)
        }
        # Cards of one kind share their traces; the first kind is answered first.
        kinds = {number: has_flash_attention(spaces[number][0].device.compute_capability) for number in planned}
        of_first_kind = [number for number in planned if kinds[number] == kinds[planned[0]]]
        first = self._stage(spaces, of_first_kind, FIRST_RUNGS, FIRST_SIZES)
        if self._site.keeper.made_any and planned:
            self._site.progress.answer(f"First answer, for {_first_words(first[planned[0]])}. Now the rest.")
        # One sample at a time is traced for itself, and is faster than two only where two do not fit.
        plans |= self._stage(spaces, planned, FIRST_RUNGS, LATER_SIZES)
        unsure = [number for number in planned if _may_be_better(plans[number])]
        plans |= self._stage(spaces, unsure, (*FIRST_RUNGS, *LADDER_BETWEEN), ALL_SIZES)
        return [
            each if each.configs or each.refusal else replace(each, helps=self._helps(each.card, request))
            for each in plans.values()
        ]

    def _stage(
        self,
        spaces: Sequence[tuple[Card, SearchSpace | None, str]],
        numbers: Sequence[int],
        rungs: Sequence[str],
        sizes: range,
    ) -> dict[int, CardPlan]:
        """The plans of some cards, with these rungs of the ladder and micro-batches of these sizes."""
        wanted: dict[int, list[TrainConfig]] = {}
        too_large: dict[int, bool] = {}
        for number in numbers:
            space = spaces[number][1]
            assert space is not None
            usable = space.situation.limits.usable_bytes
            candidates = candidates_of(space, rungs)
            possible = [
                each for each in candidates if not self._all_is_trained or surely_needs(space.situation, each) <= usable
            ]
            too_large[number] = len(possible) < len(candidates)
            wanted[number] = [each for each in possible if each.micro_batch_size in sizes] or possible
        by_kind: dict[Needs, list[TrainConfig]] = defaultdict(list)
        for number, configs in wanted.items():
            space = spaces[number][1]
            assert space is not None
            by_kind[self._needs_of(space.situation)] += configs
        for needs, configs in by_kind.items():
            needs.prepare(configs)
        found = {}
        for number, configs in wanted.items():
            card, space, _ = spaces[number]
            assert space is not None
            found[number] = self._of(card, space, configs, is_known=too_large[number])
        return found

    def estimate(self, card: Card, fix: dict[str, str]) -> Estimate:
        situation = self._situation(card)
        space = SearchSpace(situation, SpaceRequest(numerics="aggressive", fix=fix))
        config = reference_of(space)
        predictor = self._predictor(card, situation)
        try:
            need = self._needs_of(situation).of(config)
            prediction = predictor.predict(config)
        except CannotPredictError as error:
            raise UserError(f"This configuration cannot be predicted: {error}") from None
        return Estimate(
            workload=self._record.workload,
            card=card,
            limits=situation.limits,
            config=config,
            prediction=prediction,
            largest_blocks=need.largest_blocks(10),
            phase_peaks=need.phase_peaks(),
        )

    def _of(self, card: Card, space: SearchSpace, candidates: Sequence[TrainConfig], *, is_known: bool) -> CardPlan:
        """The fastest candidates that fit this card; ``is_known`` says that others are known to be too large."""
        predictor = self._predictor(card, space.situation)
        possible: list[tuple[float, TrainConfig]] = []
        unpredictable, refusal = 0, "no configuration is left that could be planned"
        for config in candidates:
            try:
                prediction = predictor.predict(config, simulate=False)
            except CannotPredictError as error:
                unpredictable, refusal = unpredictable + 1, str(error)
                continue
            if prediction.verdict is not Verdict.NO:
                possible.append((prediction.likely_seconds or 0.0, config))
        possible.sort(key=lambda pair: pair[0])
        chosen: list[PlannedConfig] = []
        for number, (_, config) in enumerate(possible):
            if number >= MOST_SIMULATED and any(each.prediction.verdict is Verdict.FITS for each in chosen):
                break
            planned = self._planned(predictor, space, config, card)
            if planned.prediction.verdict is Verdict.BORDERLINE and EXPANDABLE in space.choices["allocator"]:
                planned = self._planned(predictor, space, config.replace(allocator=EXPANDABLE), card)
            chosen.append(planned)
            if sum(each.prediction.verdict is Verdict.FITS for each in chosen) == SHOWN:
                break
        chosen.sort(key=lambda each: each.prediction.verdict is not Verdict.FITS)
        nothing_known = refusal if unpredictable == len(candidates) and not is_known else ""
        return CardPlan(card=card, configs=tuple(chosen[:SHOWN]), refusal=nothing_known)

    def _planned(self, predictor: Predictor, space: SearchSpace, config: TrainConfig, card: Card) -> PlannedConfig:
        return PlannedConfig.of(config, predictor.predict(config), space.situation.workload, card)

    def _helps(self, card: Card, request: SpaceRequest) -> tuple[Help, ...]:
        """Changes that would make the smallest configuration fit: other numerics, adapters, shorter samples."""
        helps = []
        for words, changes, numerics in self._ways_out():
            try:
                planner = self._with(words, changes)
                situation = planner._situation(card)
                space = SearchSpace(situation, replace(request, numerics=numerics or request.numerics))
                predictor = planner._predictor(card, situation)
                found = [predictor.predict(config) for config in leanest_of(space)]
            except (UserError, CannotPredictError):
                continue
            if not found:
                continue
            prediction = min(found, key=lambda each: each.total_bytes)
            helps.append(Help(words=words, needs_bytes=prediction.total_bytes, fits=prediction.verdict is Verdict.FITS))
        return tuple(helps)

    def _ways_out(self) -> list[tuple[str, dict[str, Any], str]]:
        workload = self._record.workload
        ways: list[tuple[str, dict[str, Any], str]] = [("as asked, at its leanest", {}, "")]
        if workload.method == "full":
            ways.append(("--numerics aggressive (pure bf16)", {}, "aggressive"))
            ways.append(("--method lora", {"method": "lora"}, ""))
        if workload.method != "qlora":
            ways.append(("--method qlora", {"method": "qlora"}, ""))
        gives_lengths = self._request.data is not None or self._request.lengths is not None
        if not gives_lengths and workload.sequence_length >= 256:
            half = workload.sequence_length // 2
            ways.append((f"--seq-len {half}", {"seq_len": half}, ""))
        return ways

    def _with(self, words: str, changes: dict[str, Any]) -> _Planner:
        """The planner of a changed request, made once for all cards."""
        if not changes:
            return self
        if words not in self._changed:
            request = replace(self._request, **changes)
            self._changed[words] = _Planner(request, request.record(), self._site)
        return self._changed[words]

    def _situation(self, card: Card) -> Situation:
        facts = self._facts()
        limits = Limits(memory_bytes=card.device.memory_bytes, headroom=self._site.headroom)
        # What lacks only because no GPU is here may be had beside one; packages are taken to be as they are here.
        missing = {name: why for name, why in facts.libraries.missing.items() if name != "inductor"}
        model = facts.model
        if model.drops_attention:
            # On a GPU the kernel for flattened batches drops no scores.
            model = replace(model, attention=tuple(each for each in model.attention if each != TORCH_VARLEN))
        libraries = replace(facts.libraries, missing=missing)
        return replace(facts, device=card.device, limits=limits, libraries=libraries, model=model)

    def _facts(self) -> Situation:
        if self._found is None:
            record = self._record
            path = home() / "traces" / f"facts-{_digest(record, __version__)}.json"
            stored = read_document(path, Situation)
            if stored is not None:
                self._found = replace(stored, workload=record.workload, device=record.device, limits=record.limits)
            else:
                self._site.progress.say("Building the model without weights (the first start imports torch).")
                self._found = probe(
                    self._site.workshop(), record.model, record.workload, record.device, record.limits,
                    trust_remote_code=record.trust_remote_code,
                )  # fmt: skip
                path.parent.mkdir(parents=True, exist_ok=True)
                write_document(path, self._found)
        return self._found

    def _needs_of(self, situation: Situation) -> Needs:
        kind = has_flash_attention(situation.device.compute_capability)
        if kind not in self._needs:
            record = self._record
            self._needs[kind] = Needs(
                situation, record.model, self._site.keeper, trust_remote_code=record.trust_remote_code
            )
        return self._needs[kind]

    def _predictor(self, card: Card, situation: Situation) -> Predictor:
        return Predictor(
            self._needs_of(situation),
            situation,
            # Some card's rates put the candidates in order where the card's own are not known.
            rates=card.rates or find_gpu("a100").rates,
            efficiency=OF_POWER_LIMITED_CARDS if card.is_power_limited else OF_PUBLISHED_PEAKS,
        )


def _may_be_better(plan_: CardPlan) -> bool:
    """True if less checkpointing than the best has, or a single sample at a time, could be what is best."""
    if plan_.refusal:
        return False
    return not plan_.configs or str(plan_.configs[0].config[CHECKPOINTING]) != "off"


def _first_words(plan_: CardPlan) -> str:
    if plan_.refusal:
        return f"{plan_.card.key}: not predicted"
    if not plan_.configs:
        return f"{plan_.card.key}: two samples at a time do not fit"
    config = plan_.configs[0].config
    return (
        f"{plan_.card.key}: {config.split}, {config['precision']}, "
        f"{config['optimizer']}, checkpointing {config[CHECKPOINTING]}"
    )


def _digest(record: StudyRecord, *others: object) -> str:
    workload = record.workload
    parts = (record.model.digest, workload.task, workload.method, workload.adapter, record.versions, others)
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:16]
