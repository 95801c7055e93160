"""Results of a plan and an estimate: plain values, which reports print and ``--json`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from autofit.device.device import Device
from autofit.device.rates import Rates
from autofit.job.situation import Limits
from autofit.job.workload import Workload
from autofit.knobs.train_config import TrainConfig
from autofit.study.prediction import Prediction, Verdict

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card to plan for. ``rates`` is None for one that is known by its memory alone; a power-limited one cannot keep
    them up."""

    key: str
    device: Device
    rates: Rates | None
    price_per_hour: float | None = None
    is_power_limited: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedConfig:
    """A configuration with what is predicted of it. Ranges go from fast to slow; None where the card's rates are not
    known. ``cost_per_million_tokens`` is in the price's currency."""

    config: TrainConfig
    prediction: Prediction
    step_seconds: tuple[float, float] | None
    tokens_per_second: tuple[float, float] | None
    cost_per_million_tokens: tuple[float, float] | None

    @classmethod
    def of(cls, config: TrainConfig, prediction: Prediction, workload: Workload, card: Card) -> PlannedConfig:
        """With the figures that follow from the prediction on this card."""
        seconds = prediction.step_seconds if card.rates is not None else None
        if seconds is None:
            return cls(
                config=config,
                prediction=prediction,
                step_seconds=None,
                tokens_per_second=None,
                cost_per_million_tokens=None,
            )
        tokens = workload.effective_batch * workload.lengths.mean
        fast, slow = seconds
        cost = None
        if card.price_per_hour is not None:
            each = workload.processes * card.price_per_hour / 3600 / tokens * 1e6
            cost = (fast * each, slow * each)
        return cls(
            config=config,
            prediction=prediction,
            step_seconds=seconds,
            tokens_per_second=(tokens / fast, tokens / slow),
            cost_per_million_tokens=cost,
        )


@dataclass(frozen=True, kw_only=True)
class Help:
    """A change of the job and what its leanest configuration would need."""

    words: str
    needs_bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class CardPlan:
    """The best configurations that fit a card, fastest first; none, and what would help; or why nothing is said."""

    card: Card
    configs: tuple[PlannedConfig, ...]
    refusal: str = ""
    helps: tuple[Help, ...] = ()

    @property
    def fits(self) -> bool:
        """True if something surely fits."""
        return any(each.prediction.verdict is Verdict.FITS for each in self.configs)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cards. ``seconds`` is what the answer took."""

    workload: Workload
    versions: dict[str, str]
    headroom: float
    cards: tuple[CardPlan, ...]
    seconds: float

    def document(self) -> dict[str, Any]:
        """The JSON document of ``--json``: everything in it is predicted."""
        return {
            "format": FORMAT,
            "predicted": True,
            "workload": msgspec.to_builtins(self.workload),
            "versions": self.versions,
            "headroom": self.headroom,
            "seconds": self.seconds,
            "cards": [_card_plan(each) for each in self.cards],
        }


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One configuration byte by byte. ``largest_blocks`` are those alive at the peak: bytes, the operator that made
    them, the category, how many of them. ``phase_peaks`` is what is alive at most in each phase of a step."""

    workload: Workload
    card: Card
    limits: Limits
    config: TrainConfig
    prediction: Prediction
    largest_blocks: tuple[tuple[int, str, str, int], ...]
    phase_peaks: dict[str, int]

    def document(self) -> dict[str, Any]:
        """The JSON document of ``--json``: everything in it is predicted."""
        return {
            "format": FORMAT,
            "predicted": True,
            "workload": msgspec.to_builtins(self.workload),
            "card": _card(self.card),
            "usable_bytes": self.limits.usable_bytes,
            "config": dict(self.config),
            "prediction": msgspec.to_builtins(self.prediction),
            "phase_peaks": self.phase_peaks,
            "largest_blocks": [
                {"bytes": size, "operator": operator, "category": category, "number": number}
                for size, operator, category, number in self.largest_blocks
            ],
        }


def keep_plan(path: Path, plan: Plan) -> None:
    """Write a plan where ``read_plan`` finds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(plan, enc_hook=dict))


def read_plan(path: Path) -> Plan | None:
    """A kept plan; None where there is none, or one of another form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan, dec_hook=lambda kind, value: kind(value))
    except (OSError, msgspec.DecodeError):
        return None


def _card(card: Card) -> dict[str, Any]:
    return {
        "key": card.key,
        "name": card.device.name,
        "memory_bytes": card.device.memory_bytes,
        "price_per_hour": card.price_per_hour,
    }


def _card_plan(plan: CardPlan) -> dict[str, Any]:
    return {
        **_card(plan.card),
        "fits": plan.fits,
        "refusal": plan.refusal,
        "configs": [
            {
                "config": dict(each.config),
                "prediction": msgspec.to_builtins(each.prediction),
                "step_seconds": each.step_seconds,
                "tokens_per_second": each.tokens_per_second,
                "cost_per_million_tokens": each.cost_per_million_tokens,
            }
            for each in plan.configs
        ],
        "helps": [msgspec.to_builtins(each) for each in plan.helps],
    }
