"""Additions go through everything: a made-up choice of a knob, a made-up knob, a made-up kind of device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import pytest

from autofit.device.device import Device
from autofit.device.kind import DeviceKind
from autofit.device.kinds import KINDS, find_device, kind_of
from autofit.driver.explanation import explain
from autofit.driver.starts import reference_configs
from autofit.errors import UserError
from autofit.export import EXPORTERS
from autofit.job.models import ModelSource
from autofit.job.situation import Situation
from autofit.knobs import KNOBS, knob
from autofit.knobs.knob import Choice, Knob
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.planning.candidates import candidates_of
from autofit.report.text import as_text
from autofit.study.ranking import rank
from autofit.study.result import Result
from autofit.study.store import open_study
from autofit.study.trial import Trial
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import ProcessRunner
from autofit.trial.workshop import Workshop
from tests.doubles import GIB, make_config, make_situation, make_trial
from tests.driver.test_loop import Setting
from tests.predict.test_predictor import MadeUpTraces, card, predictor_of
from tests.study.test_store import add, make_record

ARGUMENT = "dataloader_persistent_workers"
CHOICE = Choice(value="made_up", title="a made-up choice", training_arguments={ARGUMENT: True})
KNOB = Knob(
    name="made_up_knob",
    title="made up",
    question="Is anything made up?",
    reference="no",
    label="made up",
    choices=(Choice(value="no", title="nothing is made up"), CHOICE),
)


@pytest.fixture(params=[row.name for row in KNOBS if not row.is_of_programs] + [KNOB.name])
def changed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, KnobValue]:
    """The knob that has the made-up choice, and the choice's value."""
    if request.param == KNOB.name:
        for name, module in list(sys.modules.items()):
            if name.startswith("autofit.") and hasattr(module, "KNOBS"):
                monkeypatch.setattr(module, "KNOBS", (*KNOBS, KNOB))
        return KNOB.name, CHOICE.value
    row = knob(request.param)
    collator = row.choices[0].collator  # every layout has one
    choice = Choice(value="made_up", title=CHOICE.title, training_arguments={ARGUMENT: True}, collator=collator)
    object.__setattr__(row, "choices", (*row.choices, choice))
    request.addfinalizer(lambda: object.__setattr__(row, "choices", row.choices[:-1]))
    return row.name, choice.value


def config_with(
    changed: tuple[str, KnobValue] | None = None, situation: Situation | None = None, **others: object
) -> TrainConfig:
    plain = {row.name: row.reference for row in sys.modules["autofit.knobs"].KNOBS}
    config = TrainConfig({**make_config(), **{name: plain[name] for name in plain if name not in make_config()}})
    if situation is not None:
        config = config.replace(accumulation_steps=config.accumulation_steps // situation.workload.processes)
    return config.replace(**others, **({} if changed is None else {changed[0]: changed[1]}))


def situation_asking(changed: tuple[str, KnobValue]) -> Situation:
    """A situation in which the changed knob is asked."""
    row = next(row for row in sys.modules["autofit.knobs"].KNOBS if row.name == changed[0])
    return make_situation(processes=2 if row.is_of_processes else 1)


def trial_of(number: int, config: TrainConfig, seconds: float) -> Trial:
    trial = make_trial(number, seconds=seconds)
    return Trial(
        number=number, values=dict(config), outcome=trial.outcome, measurement=trial.measurement, whole=True, round=0
    )


def test_it_is_searched_and_means_its_settings_to_hugging_face(changed: tuple[str, KnobValue]) -> None:
    situation = situation_asking(changed)
    space = SearchSpace(situation, SpaceRequest(numerics="aggressive"))
    assert changed[1] in space.choices[changed[0]]
    assert config_with(changed, situation) in space
    assert recipe_for(config_with(changed, situation), situation).training_arguments[ARGUMENT] is True
    assert all(changed[0] in config for config in reference_configs(space))


def test_it_is_predicted_and_planned(changed: tuple[str, KnobValue]) -> None:
    situation: Situation = card(80)
    prediction = predictor_of(situation, MadeUpTraces()).predict(config_with(changed))
    assert prediction.total_bytes > 0 and prediction.step_seconds is not None
    space = SearchSpace(situation, SpaceRequest(numerics="aggressive"))
    planned = candidates_of(space, ("off",))
    assert planned and all(changed[0] in config for config in planned)


def test_it_is_stored_ranked_shown_explained_and_exported(changed: tuple[str, KnobValue], tmp_path: Path) -> None:
    record = make_record()
    study = open_study(f"sqlite:///{tmp_path / 'studies.db'}", record, None, fresh=False)
    situation = situation_asking(changed)
    for trial in (trial_of(0, config_with(None, situation), 2.0), trial_of(1, config_with(changed, situation), 1.0)):
        add(study, trial)
    trials = study.trials()
    best = rank(trials).best
    assert best is not None and best.trial.config[changed[0]] == changed[1]
    result = Result(study="s", storage="sqlite://", record=record, situation=situation, trials=trials)
    report = as_text(result)
    assert "made_up" in report and ARGUMENT in report
    explanation = explain(situation, SpaceRequest(numerics="aggressive"), trials)
    assert any(each.knob == changed[0] and each.basis == "measured" for each in explanation.neighbours)
    for name, serialize in EXPORTERS.items():
        text = serialize(result).text
        if name in LAUNCHERS:
            assert "TrainingArguments, which" in text or "train_args.py" in text, name
        else:
            # What a format cannot express is said in its header.
            assert (CHOICE.value if name == "csv" else ARGUMENT) in text, name


LAUNCHERS = ("accelerate", "deepspeed", "slurm")
"""Formats that start a training and leave TrainingArguments to another file, which they name."""


class MadeUpKind(DeviceKind):
    """Cards that only this test knows."""

    name = "made_up"
    round_seconds = 3.0
    spare_share = 0.02
    environment: ClassVar[dict[str, str]] = {"MADE_UP_CACHES": "1"}

    def find(self, number: int) -> Device | None:
        return Device(kind=self.name, name=f"Made-up card {number}", memory_bytes=16 * GIB, index=number)

    def bytes_of_others(self, device: Device) -> int:
        return GIB


@pytest.fixture
def made_up_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, MadeUpKind.name, MadeUpKind())


@pytest.mark.usefixtures("made_up_kind")
def test_a_kind_of_device_is_found_searched_predicted_and_measured(tmp_path: Path, tiny_source: ModelSource) -> None:
    device = find_device("made_up:2")
    assert device.index == 2 and kind_of(device).label(device.index) == "made_up:2"
    with pytest.raises(UserError, match="takes auto"):
        find_device("unheard_of")
    situation = make_situation(kind=device.kind)
    setting = Setting(tmp_path, situation=situation)
    assert {choice for choice in setting.space.choices["optimizer"] if "paged" in str(choice)}, "it is no host"
    setting.search()
    assert rank(setting.study().trials()).best is not None
    whole = [plan for plan in setting.runner.plans if plan.whole]
    assert whole and {(plan.patience_seconds, plan.spare_share) for plan in whole} == {(3.0, 0.02)}
    recipe = recipe_for(setting.space.configs[0], situation)
    assert recipe.environment["MADE_UP_CACHES"] == "1" and "use_cpu" not in recipe.training_arguments

    prediction = predictor_of(situation, MadeUpTraces()).predict(config_with())
    assert prediction.bytes_by_category["context"] == 0 and prediction.total_bytes > 0

    starts = Workshop(kind_of(device), device.index, tmp_path / "jobs", lambda sentence: None)
    assert starts.torch_device == "made_up:0"
    job = ProcessRunner(starts, situation, tiny_source).job_for(recipe, MeasuringPlan())
    assert job.memory.own_bytes == situation.limits.with_memory(16 * GIB).usable_bytes - GIB
