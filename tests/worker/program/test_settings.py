"""A configuration put into a real Trainer, just before it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator

from autofit.knobs.recipe import Recipe
from autofit.worker.program.settings import (
    can_cut,
    checkpoints_activations,
    evaluates,
    inner_model,
    put,
    put_before,
    tensors_of_models,
)


def trainer_of(folder: Path, **arguments: Any) -> Trainer:
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=64)
    )
    row = torch.arange(1, 13)
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), max_steps=1, use_cpu=True, report_to="none", **arguments),
        train_dataset=[{"input_ids": row, "labels": row}] * 16,
        data_collator=default_data_collator,
    )


def recipe(model_kwargs: dict[str, Any] | None = None, **arguments: Any) -> Recipe:
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    return Recipe(
        training_arguments={**split, **arguments}, model_kwargs=model_kwargs or {}, environment={}, processes=1
    )


def test_the_loader_makes_micro_batches_of_the_new_size(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    put(trainer, recipe())
    assert len(next(iter(trainer.get_train_dataloader()))["input_ids"]) == 4
    assert trainer.args.gradient_accumulation_steps == 2


def test_autocast_is_switched_on_and_off(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    put(trainer, recipe(bf16=True))
    assert trainer.accelerator.mixed_precision == "bf16"
    put(trainer, recipe(bf16=False))
    assert trainer.accelerator.mixed_precision == "no"


class SaysItsAutocast(torch.nn.Module):
    def forward(self) -> bool:
        return torch.is_autocast_enabled("cpu")


def test_a_reference_model_is_prepared_in_the_new_precision(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.ref_model = trainer.accelerator.prepare_model(SaysItsAutocast(), evaluation_mode=True)
    said = [trainer.ref_model()]
    for switched_on in (True, False):
        put(trainer, recipe(bf16=switched_on))
        said.append(trainer.ref_model())
    assert said == [False, True, False]


def test_a_reference_model_that_was_compiled_is_prepared_anew(tmp_path: Path) -> None:
    trainer, own = trainer_of(tmp_path), SaysItsAutocast()
    trainer.accelerator._models.append(own)  # as prepare_model does, which gives the compiled one back
    trainer.ref_model = torch.compile(own)
    put(trainer, recipe(bf16=True))
    assert trainer.ref_model is own and own()


def test_settings_of_accumulation_outlive_another_accelerator(tmp_path: Path) -> None:
    settings = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
    trainer = trainer_of(tmp_path, gradient_accumulation_steps=2, accelerator_config=settings)
    put(trainer, recipe(bf16=True))
    state = trainer.accelerator.gradient_state
    assert state.plugin_kwargs["sync_each_batch"] and state.num_steps == 1


def test_the_precision_that_a_launcher_asked_for_stays_where_something_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    trainer = trainer_of(tmp_path)
    assert trainer.accelerator.mixed_precision == "bf16" and not trainer.args.bf16
    put(trainer, recipe(torch_compile=False))
    assert trainer.accelerator.mixed_precision == "bf16"
    put(trainer, recipe(bf16=False, fp16=False))
    assert trainer.accelerator.mixed_precision == "no"


def test_the_way_of_sharing_is_put_into_the_arguments_that_a_trainer_is_made_of(tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    assert can_cut(arguments) and arguments.fsdp_plugin_args is None
    settings = {"version": 2, "reshard_after_forward": False, "cpu_offload": True}
    put_before(arguments, recipe(fsdp=True, fsdp_config=settings))
    put_before(arguments, recipe(bf16=True))
    asked = TrainingArguments(str(tmp_path), use_cpu=True, fsdp=True, fsdp_config=dict(settings))
    assert arguments.fsdp_plugin_args == asked.fsdp_plugin_args and arguments.fsdp_config == asked.fsdp_config
    assert settings == {"version": 2, "reshard_after_forward": False, "cpu_offload": True}


def test_a_trainer_that_was_made_without_the_way_of_sharing_is_not_measured_as_if_it_had_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="settled before the Trainer was made"):
        put(trainer_of(tmp_path), recipe(fsdp=True, fsdp_config={"version": 2}))


def test_checkpointing_is_switched_off_where_the_program_switched_it_on_at_the_model(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.model.activation_checkpointing_enable()
    put(trainer, recipe(activation_checkpointing=False, activation_checkpointing_kwargs=None))
    assert not checkpoints_activations(trainer.model) and not trainer.args.activation_checkpointing


def test_attention_is_changed_at_the_model(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    put(trainer, recipe({"attn_implementation": "eager"}))
    assert inner_model(trainer).config._attn_implementation == "eager"


def test_the_optimizer_is_the_named_one(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    put(trainer, recipe(optim="adafactor"))
    trainer.train()
    assert type(trainer.optimizer.optimizer).__name__ == "Adafactor"


def test_a_reference_model_beside_the_trained_one_counts(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    alone = len(tensors_of_models(trainer))
    trainer.ref_model = torch.nn.Linear(4, 4)
    assert len(tensors_of_models(trainer)) == alone + 2


@pytest.mark.parametrize(("strategy", "expected"), [("no", False), ("steps", True)])
def test_whether_a_training_evaluates_is_told(tmp_path: Path, strategy: str, expected: bool) -> None:
    assert evaluates(TrainingArguments(output_dir=str(tmp_path), eval_strategy=strategy, use_cpu=True)) is expected
