"""Knobs of a user's own program, and the changes a configuration makes in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from autofit.errors import UserError
from autofit.job.program import Program
from autofit.job.situation import Situation
from autofit.knobs import KNOBS
from autofit.knobs.knob import PROGRAMS_OWN
from autofit.knobs.own_program import own_config, with_values
from autofit.knobs.parallelism import OFFLOADING, ZERO2, ZERO3, ZERO3_OFFLOADED
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from tests.doubles import make_situation

PLAIN = {
    "bf16": False,
    "fp16": False,
    "tf32": None,
    "optim": "adamw_torch_fused",
    "activation_checkpointing": False,
    "torch_compile": False,
    "use_liger_kernel": False,
    "train_sampling_strategy": "random",
    "dtype": "float32",
    "attn_implementation": "sdpa",
}


def situation_of(own: dict[str, str] | None = None, **changes: Any) -> Situation:
    """A situation of a program that trains 8 x 4 with some settings changed."""
    program = Program(
        command=("python", "train.py"),
        code="0" * 16,
        trainer="Trainer",
        model="LlamaForCausalLM",
        micro_batch_size=8,
        accumulation_steps=4,
        settings={**PLAIN, **changes},
        own=own or {},
    )
    return with_values(replace(make_situation(), program=program))


def program_of(situation: Situation) -> Program:
    assert situation.program is not None
    return situation.program


def test_a_programs_settings_become_a_configuration() -> None:
    program = program_of(situation_of(bf16=True, activation_checkpointing=True))
    config = own_config(program)
    assert (config.micro_batch_size, config.accumulation_steps) == (8, 4)
    assert config["precision"] == "bf16" and config["activation_checkpointing"] == "every_layer"
    assert config["batch_layout"] == PROGRAMS_OWN


def test_the_programs_own_configuration_changes_nothing_in_it() -> None:
    situation = situation_of()
    recipe = recipe_for(own_config(program_of(situation)), situation)
    assert recipe.training_arguments == {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    assert not recipe.model_kwargs and not recipe.environment


def test_a_changed_knob_says_all_its_settings_and_the_others_none() -> None:
    situation = situation_of(bf16=True)
    config = own_config(program_of(situation)).replace(precision="fp32", micro_batch_size=16, accumulation_steps=2)
    assert recipe_for(config, situation).training_arguments == {
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "bf16": False,
        "fp16": False,
        "tf32": False,
    }


def test_attention_is_changed_at_the_model() -> None:
    situation = situation_of()
    recipe = recipe_for(own_config(program_of(situation)).replace(attention="eager"), situation)
    assert recipe.model_kwargs == {"attn_implementation": "eager"}


def test_every_configuration_of_the_space_has_the_programs_effective_batch() -> None:
    situation = situation_of()
    space = SearchSpace(situation, SpaceRequest())
    assert own_config(program_of(situation)) in space
    assert {recipe_for(config, situation).effective_batch for config in space.configs} == {32}


def test_what_the_program_decides_is_left_as_it_is_with_its_reason() -> None:
    situation = situation_of(own={"optimizer": "the program makes its own optimizer"})
    space = SearchSpace(situation, SpaceRequest())
    assert space.choices["optimizer"] == ("adamw_torch_fused",)
    assert "makes its own optimizer" in {each.knob: each.reason for each in space.refusals}["optimizer"]


def test_a_setting_that_no_choice_says_stays_the_programs() -> None:
    situation = situation_of(optim="sgd")
    config = own_config(program_of(situation))
    assert config["optimizer"] == PROGRAMS_OWN and "optim=sgd" in program_of(situation).own["optimizer"]
    assert "optim" not in recipe_for(config.replace(precision="bf16"), situation).training_arguments


def test_another_algorithm_is_not_exchanged_for_adamw() -> None:
    assert SearchSpace(situation_of(optim="adafactor"), SpaceRequest()).choices["optimizer"] == ("adafactor",)


def test_precisions_for_weights_of_another_dtype_are_refused() -> None:
    space = SearchSpace(situation_of(dtype="bfloat16"), SpaceRequest())
    assert space.choices["precision"] == ("pure_bf16",)
    reasons = [each.reason for each in space.refusals if each.knob == "precision"]
    assert any("the program's weights are bfloat16" in reason for reason in reasons)


def test_16_bit_weights_under_autocast_stay_as_they_are() -> None:
    situation = situation_of(dtype="bfloat16", bf16=True)
    assert SearchSpace(situation, SpaceRequest()).choices["precision"] == (PROGRAMS_OWN,)


def test_the_programs_own_value_is_searched_whatever_numerics_are_asked_for() -> None:
    space = SearchSpace(situation_of(bf16=True), SpaceRequest(numerics="exact"))
    assert set(space.choices["precision"]) == {"bf16", "fp32"}


def test_a_variable_that_is_set_where_the_program_runs_decides() -> None:
    situation = situation_of()
    assert situation.program is not None
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    again = with_values(replace(situation, program=msgspec.structs.replace(situation.program, environment=environment)))
    assert SearchSpace(again, SpaceRequest()).choices["allocator"] == ("expandable",)
    assert not recipe_for(own_config(program_of(again)), again).environment


def test_fixing_what_the_program_decides_is_refused() -> None:
    situation = situation_of(own={"optimizer": "the program makes its own optimizer"})
    with pytest.raises(UserError, match="decided by the program"):
        SearchSpace(situation, SpaceRequest(fix={"optimizer": "adamw_torch"}))


@pytest.mark.parametrize(
    "settings",
    [
        {"parallelism_config": "ParallelismConfig(tp_size=2)"},
        {"fsdp": True, "fsdp_config": {"version": 1, "reshard_after_forward": "FULL_SHARD", "cpu_offload": False}},
        {"fsdp": True, "fsdp_config": {"version": 2, "reshard_after_forward": False, "cpu_offload": True}},
    ],
    ids=["parallelism_config", "fsdp 1", "kept and offloaded"],
)
def test_a_program_that_shares_its_training_in_a_way_that_no_choice_says_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"train.py .* autofit does not measure"):
        situation_of(**settings)


@pytest.mark.parametrize(
    ("value", "reshards", "offloads"),
    [("fsdp2", True, False), ("fsdp2_kept", False, False), ("fsdp2_offload", True, True)],
)
def test_a_program_that_cuts_its_parameters_into_parts_keeps_its_way_of_doing_so(
    value: str, reshards: bool, offloads: bool
) -> None:
    sharing = {"version": 2, "reshard_after_forward": reshards, "cpu_offload": offloads}
    launched = {"parallelism": "accelerate's launcher asks for it"}
    program = program_of(situation_of(own=launched, fsdp=True, fsdp_config=sharing))
    # As accelerate's launcher asks for it.
    program = msgspec.structs.replace(program, environment={"ACCELERATE_USE_FSDP": "true"})
    gpus = make_situation(kind="cuda", capability=(9, 0), effective_batch=64, processes=2, missing={})
    situation = with_values(replace(gpus, program=program))
    space = SearchSpace(situation, SpaceRequest())
    assert own_config(program_of(situation)) in space
    assert space.choices["parallelism"] == (value,)
    optimizers = {str(config["optimizer"]) for config in space.configs}
    assert "adamw_torch" in optimizers and "adamw_8bit" not in optimizers
    recipe = recipe_for(space.configs[0], situation)
    assert "fsdp" not in recipe.training_arguments and not recipe.environment.keys() & OFFLOADING.keys()


def test_the_way_of_sharing_is_searched_where_the_program_leaves_it_to_its_arguments() -> None:
    program = program_of(situation_of())
    gpus = make_situation(kind="cuda", capability=(9, 0), effective_batch=64, processes=2, missing={})
    situation = with_values(replace(gpus, program=program))
    space, own = SearchSpace(situation, SpaceRequest()), own_config(program_of(situation))
    assert set(space.choices["parallelism"]) == {"ddp", "fsdp2", "fsdp2_kept", "fsdp2_offload"}
    assert own["parallelism"] == "ddp" and "fsdp" not in recipe_for(own, situation).training_arguments
    parts = recipe_for(own.replace(parallelism="fsdp2_offload"), situation)
    assert parts.training_arguments["fsdp_config"]["cpu_offload"] is True and parts.environment == OFFLOADING
    assert "deepspeed" not in parts.training_arguments
    refused = {each.value: each.reason for each in space.refusals if each.knob == "parallelism"}
    assert refused == dict.fromkeys(
        (ZERO2, ZERO3, ZERO3_OFFLOADED), "DeepSpeed has to be asked for before the program loads its model"
    )
    alone = SearchSpace(with_values(replace(make_situation(), program=program_of(situation_of()))), SpaceRequest())
    assert alone.choices["parallelism"] == ("ddp",)


OFFLOADS = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}


@pytest.mark.parametrize(
    ("zero", "value"),
    [
        ({"stage": 2, "reduce_bucket_size": 5}, "zero2"),
        ({"stage": 3, "overlap_comm": False}, "zero3"),
        (OFFLOADS, "zero3_offload"),
        ({"stage": 2, "offload_optimizer": {"device": "cpu"}}, PROGRAMS_OWN),
        ({"stage": 1}, PROGRAMS_OWN),
    ],
    ids=str,
)
def test_a_program_that_trains_with_deepspeed_keeps_its_stage_and_its_settings(
    zero: dict[str, Any], value: str
) -> None:
    asks = {"parallelism": "the program asks for DeepSpeed"}
    program = program_of(situation_of(own=asks, bf16=True, deepspeed={"zero_optimization": zero}))
    gpus = make_situation(kind="cuda", capability=(9, 0), effective_batch=64, processes=2, missing={})
    situation = with_values(replace(gpus, program=program))
    space = SearchSpace(situation, SpaceRequest())
    assert space.choices["parallelism"] == (value,) and own_config(program_of(situation)) in space
    assert not any("deepspeed" in recipe_for(each, situation).training_arguments for each in space.configs)


@pytest.mark.parametrize(
    ("own", "settings"),
    [
        ({"optimizer": "its own there"}, {"optim": "paged_adamw_32bit", "deepspeed": {"zero_optimization": OFFLOADS}}),
        ({}, {"optim": "adafactor", "deepspeed": {"zero_optimization": {"stage": 2}}}),
        ({}, {"dtype": "bfloat16", "deepspeed": {"zero_optimization": {"stage": 2}}}),
    ],
    ids=["paged on the host", "adafactor", "pure_bf16"],
)
def test_what_a_program_trains_with_is_in_its_space_whatever_is_known_against_it(
    own: dict[str, str], settings: dict[str, Any]
) -> None:
    asks = {"parallelism": "the program asks for DeepSpeed", **own}
    gpus = make_situation(kind="cuda", capability=(9, 0), effective_batch=64, processes=2, missing={})
    situation = with_values(replace(gpus, program=program_of(situation_of(own=asks, **settings))))
    space = SearchSpace(situation, SpaceRequest())
    assert own_config(program_of(situation)) in space and space.combinations


def test_adafactor_is_not_tried_in_a_program_whose_parameters_deepspeed_makes_one_row() -> None:
    gpus = make_situation(kind="cuda", capability=(9, 0), effective_batch=64, processes=2, missing={})
    for stage, expected in ((0, True), (1, False), (3, False)):
        program = program_of(
            situation_of(own={"parallelism": "its"}, deepspeed={"zero_optimization": {"stage": stage}})
        )
        space = SearchSpace(with_values(replace(gpus, program=program)), SpaceRequest(numerics="aggressive"))
        assert any(config["optimizer"] == "adafactor" for config in space.configs) is expected


@pytest.mark.parametrize("engine", [{"tensor_parallel": {"autotp_size": 2}}, {"sequence_parallel_size": 2}], ids=str)
def test_a_program_whose_processes_share_a_sample_by_deepspeed_is_refused(engine: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="does not measure"):
        situation_of(deepspeed={"zero_optimization": {"stage": 2}, **engine})


def on_a_card(
    own: dict[str, str] | None = None, environment: dict[str, str] | None = None, **changes: Any
) -> Situation:
    program = msgspec.structs.replace(program_of(situation_of(own, **changes)), environment=environment or {})
    return with_values(replace(make_situation(kind="cuda", capability=(9, 0), missing={}), program=program))


@pytest.mark.parametrize(
    ("changes", "precision", "after"),
    [
        ({"tf32": True}, "tf32", {"torch_compile": True, "tf32": True}),
        # accelerate switches tf32 on for what compiles in fp32.
        ({"torch_compile": True}, "tf32", {"torch_compile": False, "tf32": True}),
        ({"torch_compile": True, "tf32": False}, "tf32", {"torch_compile": False, "tf32": True}),
        ({"bf16": True}, "bf16", {"torch_compile": True}),
    ],
)
def test_tf32_stays_as_the_program_has_it_where_compiling_changes(
    changes: dict[str, Any], precision: str, after: dict[str, Any]
) -> None:
    situation = on_a_card(**changes)
    own = own_config(program_of(situation))
    assert own["precision"] == precision
    other = own.replace(compile="off" if changes.get("torch_compile") else "inductor")
    arguments = recipe_for(other, situation).training_arguments
    assert {name: arguments[name] for name in ("torch_compile", "tf32") if name in arguments} == after
    assert "tf32" not in recipe_for(own, situation).training_arguments


def test_the_allocator_is_the_programs_own_where_torchs_newer_variable_is_set() -> None:
    situation = on_a_card(environment={"PYTORCH_ALLOC_CONF": "garbage_collection_threshold:0.8"})
    assert own_config(program_of(situation))["allocator"] == PROGRAMS_OWN
    assert SearchSpace(situation, SpaceRequest()).choices["allocator"] == (PROGRAMS_OWN,)


def test_a_split_that_the_program_decides_is_the_only_one() -> None:
    situation = situation_of(own={"micro_batch_size": "another would train otherwise"})
    assert SearchSpace(situation, SpaceRequest()).batch_pairs == ((8, 4),)
    for fix in ({"micro_batch_size": "16"}, {"accumulation_steps": "2"}):
        with pytest.raises(UserError, match="another would train otherwise"):
            SearchSpace(situation, SpaceRequest(fix=fix))


def test_every_knob_has_a_value() -> None:
    program = program_of(situation_of())
    assert set(program.values) == {row.name for row in KNOBS}


def test_loader_workers_are_searched_in_programs_alone() -> None:
    assert SearchSpace(make_situation(), SpaceRequest()).choices["loader"] == ("default",)
    situation = situation_of(dataloader_num_workers=2)
    space = SearchSpace(situation, SpaceRequest())
    assert set(space.choices["loader"]) == {"default", "workers_2", "workers_4"}
    own = own_config(program_of(situation))
    assert own["loader"] == "workers_2"
    assert "dataloader_num_workers" not in recipe_for(own, situation).training_arguments
    for value, number in (("default", 0), ("workers_4", 4)):
        assert recipe_for(own.replace(loader=value), situation).training_arguments["dataloader_num_workers"] == number


def test_a_number_of_workers_that_no_choice_has_stays_the_programs() -> None:
    situation = situation_of(dataloader_num_workers=7)
    assert own_config(program_of(situation))["loader"] == PROGRAMS_OWN
    assert program_of(situation).own["loader"] == "loader is the program's own: dataloader_num_workers=7"
    assert SearchSpace(situation, SpaceRequest()).choices["loader"] == (PROGRAMS_OWN,)
    # What it has set for its workers would be refused, or act otherwise, with another number of them.
    further = situation_of(dataloader_num_workers=2, dataloader_prefetch_factor=64)
    assert own_config(program_of(further))["loader"] == PROGRAMS_OWN


def test_loader_workers_are_left_out_where_loading_takes_no_time() -> None:
    situation = situation_of()
    program = msgspec.structs.replace(program_of(situation), loads_quickly=True)
    space = SearchSpace(replace(situation, program=program), SpaceRequest())
    assert space.choices["loader"] == ("default",)
    assert {each.reason for each in space.refusals if each.knob == "loader"} == {
        "loading an effective batch takes less than 5 ms"
    }


def test_a_program_that_was_searched_before_there_was_a_knob_has_its_reference() -> None:
    situation = situation_of()
    values = {name: value for name, value in program_of(situation).values.items() if name != "loader"}
    older = replace(situation, program=msgspec.structs.replace(program_of(situation), values=values))
    assert own_config(program_of(older)) == own_config(program_of(situation))
    assert own_config(program_of(older)) in SearchSpace(older, SpaceRequest())
