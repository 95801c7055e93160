"""Baselines read from files that people have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autofit.errors import UserError
from autofit.knobs.baseline import read_baseline
from autofit.knobs.parallelism import PARALLELISM
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from tests.doubles import make_situation

GPU = make_situation(effective_batch=32, kind="cuda", capability=(9, 0), missing={})


def written(folder: Path, text: str, name: str = "arguments.json") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("number", range(0, 4000, 311))
def test_what_a_recipe_passes_to_hugging_face_is_read_as_the_same_configuration(tmp_path: Path, number: int) -> None:
    space = SearchSpace(GPU, SpaceRequest(numerics="aggressive"))
    config = space.configs[number % len(space)]
    recipe = recipe_for(config, GPU)
    path = written(tmp_path, json.dumps({**recipe.training_arguments, "model_kwargs": recipe.model_kwargs}))
    read = read_baseline(path, GPU)
    # What is set by the environment or by a collator is not in TrainingArguments.
    told = [name for name in config if name not in ("allocator", "batch_layout")]
    assert {name: read[name] for name in told} == {name: config[name] for name in told}


def test_yaml_with_old_names_is_read(tmp_path: Path) -> None:
    text = "per_device_train_batch_size: 4\ngradient_accumulation_steps: 8\nbf16: true\ngradient_checkpointing: true\n"
    config = read_baseline(written(tmp_path, text + "optim: adamw_bnb_8bit\n", "a.yaml"), GPU)
    assert config["activation_checkpointing"] == "every_layer" and config["optimizer"] == "adamw_8bit"
    assert config["precision"] == "bf16" and config.micro_batch_size == 4


def test_real_training_arguments_are_read(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=8, gradient_accumulation_steps=4, optim="adamw_torch"
    )
    config = read_baseline(written(tmp_path, arguments.to_json_string()), make_situation(effective_batch=32))
    assert config["optimizer"] == "adamw_torch" and config["precision"] == "fp32"
    assert config["activation_checkpointing"] == "off" and config["compile"] == "off"


def test_weights_in_16_bits_are_a_looser_class_and_read_all_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"gradient_accumulation_steps": 4, "torch_dtype": "torch.bfloat16"}))
    config = read_baseline(path, GPU)
    assert config["precision"] == "pure_bf16"
    assert config not in SearchSpace(GPU, SpaceRequest())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"per_device_train_batch_size": 3}', "3 x 1 = 3 samples"),
        ('{"gradient_accumulation_steps": 4, "optim": "sgd"}', "optimizer cannot be told from optim=sgd"),
        ("[1, 2]", "holds no settings"),
        ("{: :", "neither JSON nor YAML"),
    ],
)
def test_what_cannot_be_a_baseline_is_refused_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_baseline(written(tmp_path, text), GPU)
    with pytest.raises(UserError, match="cannot be read"):
        read_baseline(tmp_path / "none.json", GPU)


@pytest.mark.parametrize("setting", ["deepspeed: ds.json", "fsdp: full_shard"])
def test_settings_that_would_be_ignored_are_refused(setting: str, tmp_path: Path) -> None:
    text = f"per_device_train_batch_size: 8\ngradient_accumulation_steps: 4\n{setting}\n"
    with pytest.raises(UserError, match="does not measure"):
        read_baseline(written(tmp_path, text, "a.yaml"), GPU)


@pytest.mark.parametrize("way", [each.value for each in PARALLELISM.choices])
def test_a_way_of_sharing_that_is_searched_is_a_baseline_where_there_are_several_processes(
    way: str, tmp_path: Path
) -> None:
    gpus = make_situation(kind="cuda", capability=(9, 0), processes=2, missing={})
    settings = {"per_device_train_batch_size": 16, **PARALLELISM.choice(way).training_arguments}
    path = written(tmp_path, json.dumps(settings))
    assert read_baseline(path, gpus)["parallelism"] == way
    if "fsdp" in settings:
        settings["fsdp_config"] = {**settings["fsdp_config"], "activation_checkpointing": True}
        with pytest.raises(UserError, match="sets activation_checkpointing in fsdp_config, which"):
            read_baseline(written(tmp_path, json.dumps(settings)), gpus)
        with pytest.raises(UserError, match="does not measure"):
            read_baseline(written(tmp_path, json.dumps({**settings, "fsdp_config": "fsdp.json"})), gpus)
    if "deepspeed" in settings:
        settings["deepspeed"] = {**settings["deepspeed"], "wall_clock_breakdown": True}
        with pytest.raises(UserError, match="does not measure"):
            read_baseline(written(tmp_path, json.dumps(settings)), gpus)


@pytest.mark.parametrize("workers", [4, 7])
def test_loader_workers_say_nothing_to_a_search_of_made_up_samples(workers: int, tmp_path: Path) -> None:
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"per_device_train_batch_size": 32, "dataloader_num_workers": workers}))
    assert read_baseline(path, make_situation())["loader"] == "default"
