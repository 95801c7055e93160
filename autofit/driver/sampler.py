"""autofit's own Optuna sampler: the configuration with the largest expected gain for each second it costs to try.

What is believed of a configuration's step time, on the logarithm, is a prediction plus a correction:

* **Prediction** (``prior``): traced steps, or nothing where nothing can be predicted.
* **Correction** (``surrogate``): every measured trial shows how far off the prediction was there. The error is taken
  to be a sum of effects: of the device as a whole, of each knob's value, of pairs of values, of the micro-batch. One
  trial of 8-bit AdamW therefore corrects all configurations with 8-bit AdamW, and each by as much as is sure.

The same is done for bytes, which gives each configuration a chance to fit. An out-of-memory does two things: it says
that the bytes are at least the limit, and it rules out at once what certainly needs as much (same knobs, a larger
micro-batch or less checkpointing; never across the border between accumulation 1 and more, where gradients begin to
be alive in the forward pass).

With b the best step so far, d the believed difference of logarithms to it with mean m and deviation s, and F the normal
distribution, the expected gain is the mean of max(0, 1 - exp(d)):

    gain = F(-m / s) - exp(m + s^2 / 2) F(-m / s - s)

as a share of a step. It is multiplied by the chance to fit and the chance not to fail (a value that failed before where
it was tried fails again), and divided by a power of the seconds that the trial will take: starting, warming up, timing,
and compiling where something is compiled. So what is cheap comes first, and compiling comes last, and then only on what
is already fast.

The sampler ends the search by raising ``NothingWorthwhileError`` when the largest gain left is below ``WORTHWHILE``.
A trial that was stopped early counts as a lower bound. Predictions are asked for where they matter: around the start,
then for the most promising configurations at each proposal.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from autofit.driver.budget import COMPILING_SECONDS
from autofit.driver.covariance import Belief
from autofit.driver.encoding import EncodedSpace, Mask, Numbers
from autofit.driver.observation import RUNNING, Elsewhere, Observation, observed
from autofit.driver.parameters import distributions_of, params_of, place_of
from autofit.driver.prior import Predicts, Prior
from autofit.driver.surrogate import AdditiveProcess
from autofit.knobs.space import SearchSpace
from autofit.predict.error_covariance import SECONDS_OFF, Amplitudes
from autofit.study.outcome import Outcome

WORTHWHILE = 0.0002
"""An expected gain of less than this share of a step is not worth a trial."""
TRIALS_FOR_EACH_E = 2.1
"""Trials until the largest expected gain is an e-th: the median in ``python -m benchmarks.search.time_left``."""
COST_POWER = 0.5
"""0 asks for the fewest trials, 1 for the fewest seconds at each step."""
LOOKED_AT = 12
"""The most promising configurations at each proposal, which are predicted one by one."""
LOOKS = 3
RUN_NOISE = 0.01
"""What one run differs from the next by, beyond what its own steps tell; as a share of a step."""
LEAST_CERTAIN = 0.2
LIKELY = 0.5
"""Chance to fit and run from which a running configuration counts as the best to come."""
ELSEWHERE_NOISE = 0.15
"""How far a knob's effect in another study, with another length or effective batch, may be from its effect here."""
TRIAL_SECONDS, STEPS_OF_A_TRIAL = 5.0, 8.0
"""Guesses for a trial before one has ended: around its steps, and how many shortened steps it runs."""

SECONDS_UNKNOWN = Amplitudes(level=3.0, knob=0.25, pair=0.05, size=0.30, knob_size=0.08, combination=0.03, regime=0.03)
BYTES_OFF = Amplitudes(level=0.10, knob=0.04, pair=0.02, size=0.06, knob_size=0.02, combination=0.01, regime=0.02)
BYTES_UNKNOWN = Amplitudes(level=3.0, knob=0.30, pair=0.05, size=1.0, knob_size=0.15, combination=0.03, regime=0.8)
_BROKEN = (Outcome.ERROR, Outcome.CRASHED, Outcome.UNSUPPORTED, Outcome.INVALID, Outcome.TIMEOUT)


class NothingWorthwhileError(Exception):
    """The search is over; the message is the end of a sentence that begins with 'stopped:'."""


class AutofitSampler(BaseSampler):
    """See the module. Reads observations (``observation.py``) from the study that it is the sampler of."""

    def __init__(
        self, space: SearchSpace, predicts: Predicts | None = None, elsewhere: Sequence[Elsewhere] = ()
    ) -> None:
        """``elsewhere`` are measurements of other studies: what they say of the knobs counts a little here.

        ``trials_to_come`` is about how many trials are left until the largest gain is not worth one, with the one that
        was proposed last; None before there was one.
        """
        self._space = space
        self._encoded = EncodedSpace(space)
        self._prior = Prior(self._encoded, predicts)
        self._of_elsewhere = [
            (self._encoded.place(config), seconds, study) for config, seconds, study in elsewhere if config in space
        ]
        self._processes: dict[str, AdditiveProcess] = {}
        self._log_usable = math.log(space.situation.limits.usable_bytes)
        self._has_looked_around = False
        self.trials_to_come: float | None = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return distributions_of(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        observations = {
            place: observation
            for params, observation in observed(study.get_trials(deepcopy=False))
            if (place := place_of(self._encoded, params)) is not None
        }
        return params_of(self._encoded, self.propose(observations))

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise AssertionError(f"{param_name} is not a parameter of this space")

    def propose(self, observations: dict[int, Observation]) -> int:
        """The place of the configuration to try next. Raises NothingWorthwhileError.

        At least one observation has to be a measured one: what to begin with is not for a sampler to say. What is
        running counts as measured where it is believed to be, so that what would tell the same is not tried beside it.
        """
        measured = [place for place, each in observations.items() if each.seconds is not None]
        if not self._has_looked_around:
            # The first that ran, and not the best, so that a search that goes on asks for the same.
            self._prior.predict_around(measured[0])
            self._has_looked_around = True
        self._prior.predict(list(observations))
        untried = self._untried(observations)
        if not untried.any():
            raise NothingWorthwhileError("every configuration was tried or is ruled out")
        cost = self._cost(observations)
        for _ in range(LOOKS):
            gain = np.where(untried, self._gain(observations), 0.0)
            score = gain / cost**COST_POWER
            promising = np.argpartition(-score, min(LOOKED_AT, len(score) - 1))[:LOOKED_AT]
            if not self._prior.predict(promising.tolist()):
                break
        largest = float(gain.max())
        self.trials_to_come = max(1.0, TRIALS_FOR_EACH_E * math.log(max(largest, WORTHWHILE) / WORTHWHILE))
        if largest < WORTHWHILE:
            whole = self._whole_batch_at_once(observations, untried)
            if whole is not None:
                return whole
            raise NothingWorthwhileError(
                f"the largest gain that can be expected of any configuration left is {largest:.2%} of a step"
            )
        return int(score.argmax())

    def _whole_batch_at_once(self, observations: dict[int, Observation], untried: Mask) -> int | None:
        """The best combination without accumulation, where nothing without accumulation was tried and it may well fit.

        It keeps no gradients during the forward pass, so what is known of the bytes with accumulation says too little;
        what is predicted says enough.
        """
        encoded = self._encoded
        if any(not encoded.accumulates[place] for place in observations):
            return None
        measured = [place for place, each in observations.items() if each.seconds is not None]
        best = min(measured, key=lambda place: observations[place].seconds or math.inf)
        same = (encoded.combinations == encoded.combinations[best]) & ~encoded.accumulates & untried
        if self._prior.is_informed:
            same &= self._chance_to_fit(observations) > 0.1
            same &= self.log_seconds(observations).mean < math.log(observations[best].seconds or math.inf)
        return int(same.argmax()) if same.any() else None

    def _untried(self, observations: dict[int, Observation]) -> Mask:
        untried = np.ones(len(self._encoded), dtype=bool)
        for place, observation in observations.items():
            untried[place] = False
            if observation.outcome == Outcome.OOM:
                untried &= ~self._encoded.certainly_as_large(place)
        return untried

    def _gain(self, observations: dict[int, Observation]) -> Numbers:
        """The expected gain of trying each configuration, as a share of the best step."""
        believed = self.log_seconds(observations)
        mean, deviation = believed.mean, believed.deviation
        chance = self._chance_to_fit(observations) ** 2 * self._chance_to_run(observations)
        best = min(mean[place] for place, each in observations.items() if each.seconds is not None)
        likely = [mean[place] for place in _running(observations) if chance[place] > LIKELY]
        best = min([best, *likely])
        behind = (mean - best) / deviation
        gain = _normal(-behind) - np.exp(np.minimum(mean - best + deviation**2 / 2, 50)) * _normal(-behind - deviation)
        result: Numbers = np.maximum(gain, 0) * chance
        return result

    def log_seconds(self, observations: dict[int, Observation]) -> Belief:
        """Belief about the logarithm of each configuration's step, after these observations."""
        prior, _ = self._prior.beliefs()
        places, values, noises = [], [], []
        for place, each in observations.items():
            if each.seconds is not None:
                uncertainty = LEAST_CERTAIN if each.uncertainty is None else min(each.uncertainty / 2, LEAST_CERTAIN)
                places.append(place)
                values.append(math.log(each.seconds) - prior.mean[place])
                noises.append(math.hypot(uncertainty, RUN_NOISE))
        level = statistics.median(values)
        for place, seconds, noise in self._elsewhere(prior.mean):
            places.append(place)
            values.append(seconds + level)
            noises.append(noise)
        amplitudes = SECONDS_OFF if self._prior.is_informed else SECONDS_UNKNOWN
        process = self._process("seconds", amplitudes)
        off = process.believe(places, values, noises)
        slower = [(place, math.log(each.slower_than)) for place, each in observations.items() if each.slower_than]
        late = [(place, bound) for place, bound in slower if prior.mean[place] + off.mean[place] < bound]
        if late:
            places += [place for place, _ in late]
            values += [bound - prior.mean[place] for place, bound in late]
            noises += [LEAST_CERTAIN] * len(late)
            off = process.believe(places, values, noises)
        if running := _running(observations):
            # To observe what is believed moves no mean, and leaves as much less unsure as the trial will.
            places += running
            values += [float(off.mean[place]) for place in running]
            off = process.believe(places, values, [*noises, *[RUN_NOISE] * len(running)])
        return Belief(mean=prior.mean + off.mean, deviation=np.hypot(prior.deviation, off.deviation))

    def _elsewhere(self, prior: Numbers) -> list[tuple[int, float, float]]:
        """Log seconds of other studies less what is predicted here, each study brought to its own middle."""
        by_study: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, seconds, study in self._of_elsewhere:
            by_study[study].append((place, math.log(seconds) - prior[place]))
        found = []
        for pairs in by_study.values():
            middle = statistics.median(value for _, value in pairs)
            found += [(place, value - middle, ELSEWHERE_NOISE) for place, value in pairs]
        return found

    def _chance_to_fit(self, observations: dict[int, Observation]) -> Numbers:
        believed = self.log_bytes(observations)
        return _normal((self._log_usable - believed.mean) / believed.deviation)

    def log_bytes(self, observations: dict[int, Observation]) -> Belief:
        """Belief about the logarithm of the bytes that each configuration needs."""
        _, prior = self._prior.beliefs()
        usable = self._log_usable
        places, values = [], []
        for place, each in observations.items():
            if each.needed_bytes:
                places.append(place)
                values.append(math.log(each.needed_bytes) - prior.mean[place])
        process = self._process("bytes", BYTES_OFF if self._prior.is_informed else BYTES_UNKNOWN)
        noises = [RUN_NOISE] * len(places)
        belief = process.believe(places, values, noises)
        too_large = [place for place, each in observations.items() if each.outcome == Outcome.OOM]
        for place in too_large:
            mean = prior.mean[place] + belief.mean[place]
            deviation = math.hypot(prior.deviation[place], belief.deviation[place])
            value, noise = _above(usable, mean, deviation)
            places.append(place)
            values.append(value - prior.mean[place])
            noises.append(noise)
        if too_large:
            belief = process.believe(places, values, noises)
        return Belief(mean=prior.mean + belief.mean, deviation=np.hypot(prior.deviation, belief.deviation))

    def _chance_to_run(self, observations: dict[int, Observation]) -> Numbers:
        """Less than 1 where a knob's value failed more often than it ran."""
        chance = np.ones(len(self._encoded))
        codes = self._encoded.codes
        ran = [place for place, each in observations.items() if each.seconds is not None]
        broke = [place for place, each in observations.items() if each.outcome in _BROKEN]
        for knob in range(len(self._encoded.knobs)):
            for value in {int(codes[place, knob]) for place in broke}:
                good = sum(codes[place, knob] == value for place in ran)
                bad = sum(codes[place, knob] == value for place in broke)
                having = codes[:, knob] == value
                chance[having] = np.minimum(chance[having], (good + 1) / (good + bad + 1))
        return chance

    def _cost(self, observations: dict[int, Observation]) -> Numbers:
        """Seconds that a trial of each configuration will take."""
        around = [each.wall_seconds - each.timed_seconds for each in observations.values() if each.seconds is not None]
        timed = [each.timed_seconds for each in observations.values() if each.seconds is not None]
        mean = self.log_seconds(observations).mean
        shortened = np.minimum(self._encoded.accumulation_steps, 3) / self._encoded.accumulation_steps
        steps = STEPS_OF_A_TRIAL * np.exp(mean) * shortened
        least = statistics.median(timed) if timed else 0.0
        cost: Numbers = (statistics.median(around) if around else TRIAL_SECONDS) + np.maximum(steps, least)
        return cost + COMPILING_SECONDS * self._compiles()

    def _compiles(self) -> Numbers:
        if "compile" not in self._encoded.knobs:
            return np.zeros(len(self._encoded))
        knob = self._encoded.knobs.index("compile")
        off = self._space.choices["compile"].index("off") if "off" in self._space.choices["compile"] else -1
        compiles: Numbers = (self._encoded.codes[:, knob] != off).astype(np.float64)
        return compiles

    def _process(self, name: str, amplitudes: Amplitudes) -> AdditiveProcess:
        key = f"{name} {amplitudes}"
        if key not in self._processes:
            self._processes[key] = AdditiveProcess(self._encoded, amplitudes)
        return self._processes[key]


def _running(observations: dict[int, Observation]) -> list[int]:
    """Places of what has not ended."""
    return [place for place, each in observations.items() if each.outcome == RUNNING]


def _above(bound: float, mean: float, deviation: float) -> tuple[float, float]:
    """The observation (value, noise) after which a normal belief has the moments it has above a bound.

    Those of the truncated normal distribution (Johnson, Kotz and Balakrishnan 1994, section 10.1).
    """
    alpha = (bound - mean) / deviation
    if alpha < -5:
        return mean, 100.0
    alpha = min(alpha, 5.0)
    density = math.exp(-alpha * alpha / 2) / math.sqrt(2 * math.pi)
    hazard = density / (math.erfc(alpha / math.sqrt(2)) / 2)
    kept = min(max(1 - hazard * (hazard - alpha), 1e-3), 0.999)
    noise = deviation * math.sqrt(kept / (1 - kept))
    wanted = max(mean + deviation * hazard, bound)
    # What to observe so that the belief's mean moves to what is wanted.
    return mean + (wanted - mean) * (1 + noise**2 / deviation**2), noise


def _normal(values: Numbers) -> Numbers:
    """The normal distribution function; Abramowitz and Stegun 7.1.26, right to 1.5e-7."""
    z = np.abs(values) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * series * np.exp(-np.minimum(z * z, 700))
    return np.where(values >= 0, 1 - tail, tail)
