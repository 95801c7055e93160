"""A member whose trials take a fixed time and answer from a formula: ``python -m tests.driver.scripted_member``.

Words: the storage, the study, seconds of a trial.
"""

from __future__ import annotations

import sys
import time

from autofit.driver.member import take_part
from autofit.knobs.recipe import Recipe, recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.study.store import load_study
from autofit.study.trial import RunResult
from autofit.trial.protocol import MeasuringPlan
from tests.doubles import FormulaRunner, make_situation, recipe_key
from tests.driver.test_strategy import MIB, needed, seconds

SITUATION = make_situation()
NARROW = SpaceRequest(
    fix={"attention": "sdpa", "optimizer": "adamw_torch_fused"},
    forbid={"activation_checkpointing": ("every_3rd", "offload")},
)


class SlowRunner(FormulaRunner):
    """Takes its time."""

    trial_seconds = 0.0

    def run(self, recipe: Recipe, plan: MeasuringPlan, name: str) -> RunResult:
        time.sleep(self.trial_seconds)
        return super().run(recipe, plan, name)


class Works:
    def __init__(self, runner: SlowRunner) -> None:
        self._runner = runner

    def runner(self, deadline: float | None) -> SlowRunner:
        return self._runner


def main(storage: str, study: str, trial_seconds: float) -> None:
    space = SearchSpace(SITUATION, NARROW)
    configs = {recipe_key(recipe_for(config, SITUATION)): config for config in space.configs}
    runner = SlowRunner(configs, seconds, needed, 2000 * MIB)
    runner.trial_seconds = trial_seconds
    print("ready", flush=True)
    why = take_part(
        load_study(storage, study), SITUATION, Works(runner), "cpu", patience_seconds=60, say=lambda sentence: None
    )
    print(why, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
