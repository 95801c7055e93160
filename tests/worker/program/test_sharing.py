"""DeepSpeed in a program: what of it is settled, and what it is told of another split."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DeepSpeedPlugin

from autofit.knobs.baseline import choices_that_say
from autofit.knobs.parallelism import PARALLELISM
from autofit.worker.program.settings import leave_schedule_open, tell_deepspeed
from autofit.worker.program.sharing import settled_by_deepspeed, sharing

OPEN = {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "train_batch_size": "auto"}


def trainer_of(given: Any, config: dict[str, Any] | None, **arguments: Any) -> Any:
    """A Trainer as far as DeepSpeed is concerned: ``given`` is what the program wrote, ``config`` what that became."""
    plugin = SimpleNamespace(deepspeed_config=config)
    state = SimpleNamespace(deepspeed_plugin=plugin, fsdp_plugin=None)
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "world_size": 2}
    return SimpleNamespace(
        args=SimpleNamespace(deepspeed=given, **{**split, **arguments}),
        is_deepspeed_enabled=config is not None,
        is_fsdp_enabled=False,
        accelerator=SimpleNamespace(state=state, parallelism_config=None),
    )


def test_settings_that_leave_the_split_open_are_told_another() -> None:
    config = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, "train_batch_size": 16}
    trainer = trainer_of(OPEN, config, per_device_train_batch_size=8, gradient_accumulation_steps=1)
    assert "micro_batch_size" not in settled_by_deepspeed(trainer)
    tell_deepspeed(trainer)
    assert config == {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 1, "train_batch_size": 16}
    without = trainer_of(None, None)
    tell_deepspeed(without)
    assert settled_by_deepspeed(without) == {} and sharing(without)["deepspeed"] is None


def test_what_settings_do_not_have_is_not_written_into_them() -> None:
    config: dict[str, Any] = {"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 2}}
    tell_deepspeed(trainer_of(OPEN, config, per_device_train_batch_size=2, gradient_accumulation_steps=4))
    assert config == {"train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 2}}


@pytest.mark.parametrize("name", list(OPEN))
def test_a_split_that_settings_name_is_the_programs_own(name: str, tmp_path: Path) -> None:
    given = {**OPEN, name: 4}
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(given))
    for written in (given, str(file)):
        assert name in settled_by_deepspeed(trainer_of(written, {**OPEN, name: 4}))["micro_batch_size"]


def test_the_launchers_settings_name_the_split_where_it_was_told_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settled() -> dict[str, str]:
        return settled_by_deepspeed(trainer_of(None, DeepSpeedPlugin().deepspeed_config))

    assert set(settled()) == {"precision", "compile"}
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    assert "gradient_accumulation_steps" in settled()["micro_batch_size"]
    file = tmp_path / "ds.json"
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    file.write_text(json.dumps({**OPEN, "zero_optimization": {"stage": 2}}))
    assert "gradient_accumulation_steps" in settled()["micro_batch_size"]
    monkeypatch.delenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    for named in (True, False):
        file.write_text(json.dumps({**OPEN, "train_batch_size": 64 if named else "auto", "zero_optimization": {}}))
        assert ("micro_batch_size" in settled()) is named


def test_what_the_launcher_offloads_nowhere_is_a_stage_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage, way in ((2, "zero2"), (3, "zero3")):
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", str(stage))
        settings = sharing(trainer_of(None, DeepSpeedPlugin().deepspeed_config))
        assert [choice.value for choice in choices_that_say(PARALLELISM, settings)] == [way]


def test_a_schedule_of_deepspeeds_own_is_as_long_as_a_trial() -> None:
    params = {"warmup_max_lr": 1e-4, "total_num_steps": 1000, "warmup_num_steps": 100}
    leave_schedule_open(trainer_of(OPEN, {"scheduler": {"type": "WarmupDecayLR", "params": params}}))
    assert params == {"warmup_max_lr": 1e-4, "total_num_steps": "auto", "warmup_num_steps": "auto"}
    leave_schedule_open(trainer_of(None, None))


def test_settings_are_told_as_json_has_them() -> None:
    config = {"optimizer": {"params": {"betas": [0.9, 0.999]}}, "steps_per_print": float("inf")}
    assert sharing(trainer_of(OPEN, config))["deepspeed"] == {"optimizer": {"params": {"betas": [0.9, 0.999]}}}


def test_an_optimizer_that_settings_name_or_put_on_the_host_is_the_programs_own() -> None:
    plain = settled_by_deepspeed(trainer_of(OPEN, {"zero_optimization": {"stage": 3}}))
    assert set(plain) == {"precision", "compile"}
    assert "optimizer" in settled_by_deepspeed(trainer_of(OPEN, {"optimizer": {"type": "AdamW"}}))
    on_host = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    assert "on the host" in settled_by_deepspeed(trainer_of(OPEN, on_host))["optimizer"]
