from collections.abc import Callable

import pytest

from autofit.recipe import recipe_for
from autofit.situation import Situation
from autofit.space import SearchSpace, SpaceRequest
from tests.doubles import make_config, make_situation


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
    new = recipe_for(config, make_situation()).training_arguments
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
