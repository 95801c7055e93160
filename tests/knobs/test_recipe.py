import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from autofit.job.lengths import SampleLengths
from autofit.job.method import Adapter
from autofit.job.situation import Situation
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from tests.doubles import NEWEST_FIELDS, make_config, make_situation


@pytest.mark.parametrize("effective_batch", [1, 7, 30, 32, 48])
def test_the_effective_batch_of_every_configuration_is_exact(
    effective_batch: int, situation_of: Callable[..., Situation]
) -> None:
    situation = situation_of(effective_batch=effective_batch)
    space = SearchSpace(situation, SpaceRequest(numerics="aggressive"))
    recipes = [recipe_for(config, situation) for config in space.configs]
    assert {recipe.effective_batch for recipe in recipes} == {effective_batch}


def test_checkpointing_is_spelled_as_the_installed_transformers_has_it() -> None:
    config = make_config(activation_checkpointing="every_layer")
    new = recipe_for(config, make_situation(fields=NEWEST_FIELDS)).training_arguments
    assert new["activation_checkpointing"] is True and "gradient_checkpointing" not in new
    old_fields = frozenset({"gradient_checkpointing", "gradient_checkpointing_kwargs"})
    old = recipe_for(config, make_situation(fields=old_fields)).training_arguments
    assert old["gradient_checkpointing"] is True and "activation_checkpointing" not in old
    assert old["gradient_checkpointing_kwargs"] == {"use_reentrant": False}


def test_autocast_and_load_dtype_are_two_things() -> None:
    situation = make_situation()
    autocast = recipe_for(make_config(precision="bf16"), situation)
    assert autocast.training_arguments["bf16"] is True and autocast.model_kwargs["dtype"] == "float32"
    pure = recipe_for(make_config(precision="pure_bf16"), situation)
    assert "bf16" not in pure.training_arguments and pure.model_kwargs["dtype"] == "bfloat16"


def test_the_dtype_is_always_explicit() -> None:
    """from_pretrained's own default loads most checkpoints in bf16."""
    situation = make_situation(kind="cuda", capability=(9, 0), missing={})
    space = SearchSpace(situation, SpaceRequest(numerics="aggressive"))
    assert all("dtype" in recipe_for(config, situation).model_kwargs for config in space.configs)


def test_a_cpu_is_asked_for_by_name_and_a_gpu_is_not() -> None:
    assert recipe_for(make_config(), make_situation()).training_arguments["use_cpu"] is True
    assert "use_cpu" not in recipe_for(make_config(), make_situation(kind="cuda")).training_arguments


def test_nothing_that_is_the_users_is_set() -> None:
    situation = make_situation(kind="cuda", capability=(9, 0), missing={})
    theirs = {"learning_rate", "lr_scheduler_type", "seed", "num_train_epochs", "max_steps", "weight_decay"}
    for config in SearchSpace(situation, SpaceRequest(numerics="aggressive")).configs:
        assert not theirs & set(recipe_for(config, situation).training_arguments)


def test_another_number_of_samples_is_a_bug_not_a_configuration() -> None:
    with pytest.raises(AssertionError, match="exact"):
        recipe_for(make_config(accumulation_steps=3), make_situation())


RECORDED = json.loads((Path(__file__).parent / "recorded" / "training_arguments.json").read_text())


def test_what_was_recorded_of_the_installed_transformers_is_what_it_has() -> None:
    import transformers
    from transformers.training_args import OptimizerNames

    if transformers.__version__ not in RECORDED:
        pytest.skip(f"transformers {transformers.__version__} was not recorded")
    recorded = RECORDED[transformers.__version__]
    assert set(recorded["fields"]) == {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    assert set(recorded["optimizers"]) == {name.value for name in OptimizerNames}


@pytest.mark.parametrize("version", list(RECORDED))
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_setting_is_accepted_by_every_recorded_transformers(version: str, kind: str) -> None:
    recorded = RECORDED[version]
    situation = make_situation(
        kind=kind,
        capability=(9, 0) if kind == "cuda" else None,
        missing={},
        fields=frozenset(recorded["fields"]),
        lengths=SampleLengths.of([4, 9, 30, 17] * 8),
        effective_batch=2,
    )
    seen = set()
    for config in SearchSpace(situation, SpaceRequest(numerics="aggressive")).configs:
        arguments = recipe_for(config, situation).training_arguments
        assert set(arguments) <= set(recorded["fields"]), set(arguments) - set(recorded["fields"])
        assert arguments["optim"] in recorded["optimizers"]
        assert arguments.get("train_sampling_strategy", "random") in recorded["sampling_strategies"]
        seen |= set(arguments)
    older = version < "5.23"
    assert ("gradient_checkpointing" in seen) == older and ("activation_checkpointing" in seen) != older


def test_frozen_weights_are_stored_in_the_bits_they_are_multiplied_in() -> None:
    lora = make_situation(method="lora", missing={})
    assert recipe_for(make_config(precision="bf16"), lora).model_kwargs["dtype"] == "bfloat16"
    assert recipe_for(make_config(), lora).model_kwargs["dtype"] == "float32"
    asked = dataclasses.replace(lora.workload, adapter=Adapter(frozen_dtype="bfloat16"))
    assert recipe_for(make_config(), dataclasses.replace(lora, workload=asked)).model_kwargs["dtype"] == "bfloat16"
    recipe = recipe_for(make_config(), lora)
    assert recipe.quantization is None and recipe.adapter == {
        "r": 16,
        "lora_alpha": 32,
        "target_modules": "all-linear",
        "lora_dropout": 0.0,
        "task_type": "CAUSAL_LM",
    }
    qlora = recipe_for(make_config(precision="bf16"), make_situation(method="qlora", missing={}))
    assert qlora.quantization is not None and qlora.quantization["bnb_4bit_compute_dtype"] == "bfloat16"
    assert recipe_for(make_config(), make_situation()).adapter is None


def test_layouts_say_how_samples_are_drawn_and_collated() -> None:
    situation = make_situation(lengths=SampleLengths.of([4, 9, 30]))
    fixed = recipe_for(make_config(batch_layout="fixed_padding"), situation)
    assert (fixed.collator, fixed.collator_kwargs) == ("PadRight", {"length": 30})
    rebalanced = recipe_for(make_config(batch_layout="batch_rebalance"), situation)
    assert rebalanced.training_arguments["train_sampling_strategy"] == "batch_rebalance"
    flattened = recipe_for(make_config(batch_layout="flattened"), situation)
    assert flattened.collator == "DataCollatorWithFlattening" and flattened.shares_rows
    assert not fixed.shares_rows
