"""The recommendation: what to pass to Hugging Face, and why this configuration and not another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from autofit.errors import UserError
from autofit.job.situation import Situation
from autofit.knobs import KNOBS, numerics_of
from autofit.knobs.numerics import Numerics
from autofit.knobs.recipe import recipe_for
from autofit.knobs.train_config import TrainConfig
from autofit.study.comparison import Comparison
from autofit.study.evidence import LARGEST_TIE
from autofit.study.outcome import Outcome
from autofit.study.ranking import Ranked, Ranking
from autofit.study.trial import Trial
from autofit.units import format_bytes, format_seconds

WORTH_WORKERS = 0.02
"""Loading takes less than this share of a step: workers could save no more."""
NOISY = 0.05
"""An uncertainty of the mean step above this is worth a sentence."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """``training_arguments`` holds everything but ``output_dir``; ``model_kwargs`` go to ``from_pretrained``.

    ``collator`` and the rest are as in Recipe. ``warning`` is a sentence where it is not confirmed, else empty.
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
    warning: str = ""

    @property
    def is_confirmed(self) -> bool:
        """True if it ran whole effective batches to the end."""
        return not self.warning


def recommend(ranking: Ranking, trials: Sequence[Trial], situation: Situation) -> Recommendation | None:
    """The first of the ranking, spelled out; None where nothing was measured."""
    best = ranking.best
    if best is None:
        return None
    recipe = recipe_for(best.trial.config, situation)
    arguments = dict(recipe.training_arguments)
    if situation.program is None:
        arguments["per_device_eval_batch_size"] = best.measurement.evaluation_batch_size
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
        warning=_unconfirmed(best, is_chosen=ranking.chosen is not None),
    )


def on_nodes(recommendation: Recommendation, nodes: int) -> Recommendation:
    """The same for several nodes like the measured one: each accumulates a share of what one did.

    Raises UserError where accumulation steps cannot be shared evenly: the effective batch would be another.
    """
    arguments = recommendation.training_arguments
    steps = arguments["gradient_accumulation_steps"]
    if steps % nodes:
        counted = "1 accumulation step" if steps == 1 else f"{steps} accumulation steps"
        raise UserError(
            f"{counted[0].upper()}{counted[1:]} cannot be shared evenly by {nodes} nodes; choose a configuration by "
            f"--rank whose accumulation is a multiple of {nodes}."
        )
    shared = steps // nodes
    sentence = (
        f"NOT MEASURED ON {nodes} NODES: one node was, with {steps} accumulation steps; {nodes} of them have {shared} "
        "each, and what they send each other takes time."
    )
    return replace(
        recommendation,
        training_arguments={**arguments, "gradient_accumulation_steps": shared},
        warning=" ".join(filter(None, (recommendation.warning, sentence))),
    )


def _reasons(best: Ranked, ranking: Ranking, trials: Sequence[Trial], situation: Situation) -> list[str]:
    reasons = [_against_reference(best, ranking, trials), _batch_reason(best, ranking)]
    for row in KNOBS:
        reasons.extend(_knob_reason(row.name, best, ranking))
    reasons.extend(_compile_reason(best, ranking))
    reasons.append(_memory_reason(best, situation))
    reasons.extend(_fetch_reason(best, situation))
    if not situation.model.counts_items and best.trial.config.accumulation_steps > 1:
        reasons.append(
            f"the loss of {situation.model.model_type} models is a mean over each micro-batch: with accumulation, "
            "labels weigh more where a micro-batch has fewer of them"
        )
    if situation.model.has_experts:
        reasons.append("experts were routed at random, by fresh weights: trained routing can be less even, and slower")
    reasons.extend(_tie_reason(best, ranking))
    reasons.extend(_maybe_faster(best, ranking))
    reasons.extend(_measuring_reason(best, trials))
    return [reason for reason in reasons if reason]


def _against_reference(best: Ranked, ranking: Ranking, trials: Sequence[Trial]) -> str:
    reference = ranking.reference
    if reference is None:
        own = next((trial for trial in reversed(trials) if trial.is_baseline), None)
        what = "TrainingArguments' defaults were not measured or did not fit"
        if own is not None:
            what = f"your settings ({own.config.split}) were not measured: {own.outcome.meaning}"
        return f"there is no reference to compare with: {what}"
    against = best.against_reference
    assert reference.measurement is not None and against is not None
    if best.is_reference:
        what = "that ran whole" if best.is_confirmed else "of the short trials"
        if ranking.chosen is not None:
            return "it is what the others are compared with"
        if reference.is_baseline:
            return f"your settings are the fastest {what}, or tied with it"
        precision = best.trial.config["precision"]
        return f"TrainingArguments' defaults in {precision} are the fastest {what}, or tied with it"
    config = reference.config
    name = "your settings" if reference.is_baseline else "TrainingArguments' defaults"
    text = (
        f"{against.ratio:.2f}x{_spread(against)} the speed of {name} "
        f"({config.split}, {config['precision']}: "
        f"{format_seconds(reference.measurement.step_seconds)} a step; {_evidence(against, best, reference)})"
    )
    if reference.is_outside:
        same = {Numerics.EXACT, *numerics_of(best.trial.values)}
        looser = ", ".join(each.label for each in numerics_of(reference.values) if each not in same)
        text += ", which this search leaves out" + (f" (numerics: {looser})" if looser else "")
    return text


def _spread(against: Comparison) -> str:
    return f" ±{against.spread / against.ratio:.0%}" if math.isfinite(against.spread) else ""


def _evidence(against: Comparison, one: Ranked, other: Trial) -> str:
    """Basis of a comparison: interleaved rounds, or single runs and whether those were extrapolated."""
    if against.rounds:
        return f"measured in {against.label} side by side"
    assert other.measurement is not None
    is_composed = against.is_of_short_trials or not (one.measurement.whole and other.measurement.whole)
    return f"{against.label}, not side by side" + (" and extrapolated" if is_composed else "")


def _batch_reason(best: Ranked, ranking: Ranking) -> str:
    config = best.trial.config
    same = [each for each in ranking.ranked if each.trial.config.combination() == config.combination()]
    too_large = [each for each in _failed_of_memory(ranking) if each.combination() == config.combination()]
    larger = [each.micro_batch_size for each in too_large]
    others = [_against(each, best, ranking) for each in same if each is not best]
    text = f"micro-batch {config.micro_batch_size} x {config.accumulation_steps} accumulation"
    if others:
        text += f": with the other settings as they are, {'; '.join(others)}"
    if larger:
        text += f"; {min(larger)} does not fit" if others else f": {min(larger)} does not fit"
    return text if others or larger else ""


def _knob_reason(name: str, best: Ranked, ranking: Ranking) -> list[str]:
    """Effect of each other value of a knob on the same configuration, where exactly that was run."""
    chosen = best.trial.config
    parts = [
        f"{each.trial.config[name]} is {_slower(each, best, ranking)} and needs {_more_memory(each, best)}"
        for each in ranking.ranked
        if _differs_only_in(name, each.trial.config, chosen)
    ]
    parts += [
        f"{trial.config[name]}: {trial.outcome.meaning}"
        for trial in ranking.failed
        if _differs_only_in(name, trial.config, chosen)
    ]
    return [f"{name}={chosen[name]}: {'; '.join(parts)}"] if parts else []


def _differs_only_in(name: str, config: TrainConfig, other: TrainConfig) -> bool:
    return config != other and config.replace(**{name: other[name]}) == other


def _against(each: Ranked, best: Ranked, ranking: Ranking) -> str:
    return f"{each.trial.config.micro_batch_size} is {_slower(each, best, ranking)}"


def _slower(each: Ranked, best: Ranked, ranking: Ranking) -> str:
    """Difference to the recommendation in speed, and the basis of that figure."""
    against = ranking.evidence.against(each.trial, best.trial)
    slower = against.ratio - 1
    if not math.isfinite(against.spread):
        return f"{_speed(slower)} ({against.label})"
    if abs(slower) <= against.spread:
        judged = "as fast within the noise" if against.spread <= LARGEST_TIE else "too noisy to compare"
        return f"{judged} ({against.label}, {slower:+.0%} ±{against.spread:.0%})"
    return f"{_speed(slower)} ({against.label}, ±{against.spread:.0%})"


def _more_memory(each: Ranked, best: Ranked) -> str:
    memory = each.measurement.memory.needed - best.measurement.memory.needed
    return f"{format_bytes(abs(memory))} {'more' if memory > 0 else 'less'}"


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
    without = next(
        (each for each in ranking.ranked if _differs_only_in("compile", each.trial.config, best.trial.config)), None
    )
    took = best.measurement.starting_seconds
    text = f"compiling takes {format_seconds(took)} at the start"
    if without is not None:
        against = ranking.evidence.against(without.trial, best.trial)
        saved = (against.ratio - 1) * best.measurement.step_seconds
        if saved > 0:
            text += f", which pays after {math.ceil(took / saved):,} optimizer steps ({against.label})"
    if best.measurement.late_compilations:
        text += f"; {best.measurement.late_compilations} graphs were compiled again in the timed steps"
    return [text]


def _fetch_reason(best: Ranked, situation: Situation) -> list[str]:
    """Sentence on loading: the share of a step that collating and moving its samples takes."""
    steps = [step for window in best.measurement.windows for step in window.steps]
    share = sum(step.fetch for step in steps) / sum(step.total for step in steps)
    if share < WORTH_WORKERS:
        return []
    if situation.program is not None:
        return [f"loading samples takes {share:.0%} of a step"]
    return [
        f"collating and moving samples takes {share:.0%} of a step: try dataloader_num_workers=2 with your own data set"
    ]


def _memory_reason(best: Ranked, situation: Situation) -> str:
    needed = best.measurement.memory.needed
    usable = situation.limits.usable_bytes
    evaluated = best.measurement.evaluation_batch_size
    text = (
        f"it needs {format_bytes(needed)} of the {format_bytes(usable)} that the limit less "
        f"{situation.limits.headroom:.0%} headroom leaves"
    )
    return text + (f", with an evaluation batch of {evaluated} while the optimizer state is alive" if evaluated else "")


def _tie_reason(best: Ranked, ranking: Ranking) -> list[str]:
    others = [each for each in ranking.ranked if each.tied_with_first and each is not best]
    if not others or ranking.chosen is not None:
        return []
    ranks = ", ".join(str(each.rank) for each in others)
    labels = {ranking.evidence.against(each.trial, best.trial).label for each in others}
    return [
        f"rank {ranks} {'is' if len(others) == 1 else 'are'} tied within noise ({', '.join(sorted(labels))}); "
        "the more exact, then the simpler configuration is recommended"
    ]


def _measuring_reason(best: Ranked, trials: Sequence[Trial]) -> list[str]:
    reasons = []
    measurement = best.measurement
    short = next(
        (
            trial
            for trial in trials
            if trial.config == best.trial.config and trial.measurement is not None and not trial.measurement.whole
        ),
        None,
    )
    if measurement.whole and short is not None and short.measurement is not None:
        difference = short.measurement.step_seconds / measurement.step_seconds - 1
        alone = f", while no other trial ran; beside {short.beside} of them" if short.beside else ";"
        reasons.append(
            f"measured over the whole accumulation{alone} the short trial's estimate was {abs(difference):.1%} "
            f"{'lower' if difference < 0 else 'higher'}"
        )
    reasons.extend(best.trial.notes)
    rounds = len(measurement.compared_rounds)
    if rounds > 1:
        reasons.append(f"its {rounds} interleaved rounds differ by ±{measurement.round_spread:.1%}")
    if measurement.is_disturbed:
        reasons.append(
            f"other processes kept {measurement.cores_taken:.1f} CPU cores busy while it was measured: "
            "its time is likely shorter on a quiet machine"
        )
    if measurement.uncertainty > NOISY:
        known = f"±{measurement.uncertainty:.0%} only" if measurement.uncertainty < 1 else "its order of magnitude only"
        reasons.append(
            f"this machine is noisy: the mean step is known to {known}; close other programs and run it again with "
            "--fresh for a surer figure"
        )
    return reasons


def _unconfirmed(best: Ranked, *, is_chosen: bool) -> str:
    """A sentence where the recommendation has not run whole effective batches, else empty."""
    if best.is_confirmed:
        return ""
    how = "" if best.measurement.whole else ", and its step is extrapolated from that"
    if is_chosen:
        return f"NOT CONFIRMED: it got through a short trial only{how}, and has not run whole."
    return (
        f"NOT CONFIRMED: it got through a short trial only{how}; the search ended before its whole run. The same "
        "command with more --budget or --max-trials confirms it."
    )


def _maybe_faster(best: Ranked, ranking: Ranking) -> list[str]:
    """Configurations that only a short trial says are faster."""
    if ranking.chosen is not None:
        before = best.rank - 1
        ranks = "ranks" if before == 1 else "rank"
        return [f"{before} of the measured configurations {ranks} before it"] if before else []
    faster = [each for each in ranking.ranked[: best.rank - 1] if not each.trial.is_outside]
    if not faster:
        return []
    ranks = ", ".join(str(each.rank) for each in faster)
    return [
        f"rank {ranks} may be faster by a short trial, and {'has' if len(faster) == 1 else 'have'} not run whole: "
        "more --budget or --max-trials tells"
    ]


def _failed_of_memory(ranking: Ranking) -> list[TrainConfig]:
    return [trial.config for trial in ranking.failed if trial.outcome is Outcome.OOM]
