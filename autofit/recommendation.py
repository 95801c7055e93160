"""The recommendation: what to pass to Hugging Face, and why this configuration and not another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autofit.knobs import KNOBS, numerics_of
from autofit.outcome import Outcome
from autofit.ranking import Ranked, Ranking
from autofit.recipe import recipe_for
from autofit.situation import Situation
from autofit.train_config import TrainConfig
from autofit.trials import Trial
from autofit.units import format_bytes, format_seconds

WORTH_WORKERS = 0.02
"""Loading takes less than this share of a step: workers could save no more."""
NOISY = 0.05
"""An uncertainty of the mean step above this is worth a sentence."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """``training_arguments`` holds everything but ``output_dir``; ``model_kwargs`` go to ``from_pretrained``.

    ``collator`` and the rest are as in Recipe.
    """

    trial: int
    training_arguments: dict[str, Any]
    model_kwargs: dict[str, Any]
    environment: dict[str, str]
    collator: str
    collator_kwargs: dict[str, Any]
    adapter: dict[str, Any] | None
    quantization: dict[str, Any] | None
    reasons: tuple[str, ...]


def recommend(ranking: Ranking, trials: Sequence[Trial], situation: Situation) -> Recommendation | None:
    """The first of the ranking, spelled out; None where nothing was measured."""
    best = ranking.best
    if best is None:
        return None
    recipe = recipe_for(best.trial.config, situation)
    arguments = {
        **recipe.training_arguments,
        "per_device_eval_batch_size": best.measurement.evaluation_batch_size,
    }
    return Recommendation(
        trial=best.trial.number,
        training_arguments=arguments,
        model_kwargs=recipe.model_kwargs,
        environment=recipe.environment,
        collator=recipe.collator,
        collator_kwargs=recipe.collator_kwargs,
        adapter=recipe.adapter,
        quantization=recipe.quantization,
        reasons=tuple(_reasons(best, ranking, trials, situation)),
    )


def _reasons(best: Ranked, ranking: Ranking, trials: Sequence[Trial], situation: Situation) -> list[str]:
    reasons = [_against_reference(best, ranking), _batch_reason(best, ranking)]
    for row in KNOBS:
        reasons.extend(_knob_reason(row.name, best, ranking))
    reasons.extend(_compile_reason(best, ranking))
    reasons.append(_memory_reason(best, situation))
    reasons.extend(_fetch_reason(best))
    if not situation.model.counts_items and best.trial.config.accumulation_steps > 1:
        reasons.append(
            f"the loss of {situation.model.model_type} models is a mean over each micro-batch: with accumulation, "
            "labels weigh more where a micro-batch has fewer of them"
        )
    if situation.model.has_experts:
        reasons.append("experts were routed at random, by fresh weights: trained routing can be less even, and slower")
    reasons.extend(_tie_reason(ranking))
    reasons.extend(_measuring_reason(best, trials))
    return [reason for reason in reasons if reason]


def _against_reference(best: Ranked, ranking: Ranking) -> str:
    reference = ranking.reference
    if reference is None:
        return "there is no reference to compare with: TrainingArguments' defaults were not measured or did not fit"
    if reference.role:
        return _against_baseline(best, reference)
    if best.is_reference:
        return "TrainingArguments' defaults, in this precision, are already the fastest of what was tried"
    assert reference.measurement is not None and best.speedup is not None
    config = reference.config
    return (
        f"{best.speedup:.2f}x the speed of TrainingArguments' defaults in their fastest precision "
        f"({config.micro_batch_size} x {config.accumulation_steps}, {config['precision']}: "
        f"{format_seconds(reference.measurement.step_seconds)} a step)"
    )


def _against_baseline(best: Ranked, baseline: Trial) -> str:
    if best.is_reference:
        return "your baseline is already the fastest of what was tried"
    assert baseline.measurement is not None and best.speedup is not None
    config = baseline.config
    seconds = format_seconds(baseline.measurement.step_seconds)
    text = f"{best.speedup:.2f}x the speed of your baseline ({config.micro_batch_size} x {config.accumulation_steps}, "
    text += f"{config['precision']}: {seconds} a step)"
    if baseline.role == "outside":
        classes = ", ".join(numerics.label for numerics in numerics_of(baseline.values))
        text += f", which is of a looser numerics class ({classes}): --numerics aggressive searches that class too"
    return text


def _batch_reason(best: Ranked, ranking: Ranking) -> str:
    config = best.trial.config
    same = [each for each in ranking.ranked if each.trial.config.combination() == config.combination()]
    too_large = [each for each in _failed_of_memory(ranking) if each.combination() == config.combination()]
    larger = [each.micro_batch_size for each in too_large]
    sizes = sorted(each.trial.config.micro_batch_size for each in same)
    text = f"micro-batch {config.micro_batch_size} x {config.accumulation_steps} accumulation"
    if len(sizes) > 1:
        text += f" is the fastest of the micro-batches measured with these settings ({', '.join(map(str, sizes))})"
    if larger:
        text += f"{';' if len(sizes) > 1 else ':'} {min(larger)} does not fit"
    return text if len(sizes) > 1 or larger else ""


def _knob_reason(name: str, best: Ranked, ranking: Ranking) -> list[str]:
    """Per other value of a knob: how far behind its fastest configuration is, and what memory it makes of it."""
    chosen = best.trial.config[name]
    parts = []
    fastest: dict[object, Ranked] = {}
    for each in ranking.ranked:
        value = each.trial.config[name]
        known = fastest.get(value)
        if known is None or each.measurement.step_seconds < known.measurement.step_seconds:
            fastest[value] = each
    for other_value, other in fastest.items():
        if other_value == chosen:
            continue
        slower = other.measurement.step_seconds / best.measurement.step_seconds - 1
        memory = other.measurement.memory.needed - best.measurement.memory.needed
        more = f"{format_bytes(abs(memory))} {'more' if memory > 0 else 'less'}"
        parts.append(f"{other_value} at its fastest is {_speed(slower)} and takes {more}")
    failed = {trial.config[name]: trial for trial in ranking.failed if trial.config[name] not in fastest}
    parts += [f"{value}: {trial.outcome.meaning}" for value, trial in failed.items() if value != chosen]
    return [f"{name}={chosen}: {'; '.join(parts)}"] if parts else []


def _speed(slower: float) -> str:
    if abs(slower) < 0.005:
        return "as fast"
    if slower >= 1:
        return f"{1 + slower:.1f} times as slow"
    return f"{abs(slower):.0%} {'slower' if slower > 0 else 'faster'}"


def _compile_reason(best: Ranked, ranking: Ranking) -> list[str]:
    """After how many optimizer steps compiling has paid for itself."""
    if best.trial.config["compile"] == "off":
        return []
    without = [each for each in ranking.ranked if each.trial.config["compile"] == "off"]
    took = best.measurement.starting_seconds
    text = f"compiling takes {format_seconds(took)} at the start"
    if without:
        saved = without[0].measurement.step_seconds - best.measurement.step_seconds
        if saved > 0:
            text += f", which pays after {math.ceil(took / saved):,} optimizer steps"
    if best.measurement.late_compilations:
        text += f"; {best.measurement.late_compilations} graphs were compiled again in the timed steps"
    return [text]


def _fetch_reason(best: Ranked) -> list[str]:
    """Whether loading data costs speed: what collating and moving a step's samples takes of the step."""
    steps = [step for window in best.measurement.windows for step in window.steps]
    share = sum(step.fetch for step in steps) / sum(step.total for step in steps)
    if share < WORTH_WORKERS:
        return []
    return [
        f"collating and moving samples takes {share:.0%} of a step: try dataloader_num_workers=2 and "
        "dataloader_pin_memory with your own data set"
    ]


def _memory_reason(best: Ranked, situation: Situation) -> str:
    needed = best.measurement.memory.needed
    usable = situation.limits.usable_bytes
    return (
        f"it needs {format_bytes(needed)} of the {format_bytes(usable)} that the limit less "
        f"{situation.limits.headroom:.0%} headroom leaves, with an evaluation batch of "
        f"{best.measurement.evaluation_batch_size} while the optimizer state is alive"
    )


def _tie_reason(ranking: Ranking) -> list[str]:
    tied = [each for each in ranking.ranked if each.tied_with_first]
    if len(tied) < 2:
        return []
    others = ", ".join(str(each.rank) for each in tied[1:])
    return [f"rank {others} {'is' if len(tied) == 2 else 'are'} as fast within the noise; the plainer one comes first"]


def _measuring_reason(best: Ranked, trials: Sequence[Trial]) -> list[str]:
    reasons = []
    measurement = best.measurement
    short = next(
        (
            trial.measurement
            for trial in trials
            if trial.config == best.trial.config and trial.measurement is not None and not trial.measurement.whole
        ),
        None,
    )
    if measurement.whole and short is not None:
        difference = short.step_seconds / measurement.step_seconds - 1
        reasons.append(
            f"measured over the whole accumulation; the short trial had composed it to within {abs(difference):.1%}"
        )
    elif not measurement.whole:
        reasons.append("its step was composed from a shortened accumulation; no budget was left to run it whole")
    reasons.extend(best.trial.notes)
    rounds = len(measurement.round_seconds)
    if rounds > 1:
        spread = measurement.round_spread
        reasons.append(f"run {rounds} times, turn by turn with the others; its runs differ by ±{spread:.1%}")
    if measurement.uncertainty > NOISY:
        reasons.append(
            f"this machine is noisy: the mean step is known to {measurement.uncertainty:.0%} only; "
            "close everything else and run it again with --fresh to be surer"
        )
    return reasons


def _failed_of_memory(ranking: Ranking) -> list[TrainConfig]:
    return [trial.config for trial in ranking.failed if trial.outcome is Outcome.OOM]
