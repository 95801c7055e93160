from dataclasses import replace

import pytest

from autofit.errors import UserError
from autofit.job.lengths import SampleLengths
from autofit.job.method import Adapter
from autofit.knobs.constraints import CONSTRAINTS
from autofit.knobs.parallelism import is_zero
from autofit.knobs.space import Because, SearchSpace, SpaceRequest, needs_at_least
from tests.doubles import make_config, make_situation


def values(space: SearchSpace, name: str) -> set[object]:
    return {config[name] for config in space.configs}


def test_the_numerics_level_says_which_classes_are_searched() -> None:
    gpu = make_situation(kind="cuda", capability=(9, 0), missing={})
    assert values(SearchSpace(gpu, SpaceRequest(numerics="exact")), "precision") == {"fp32"}
    assert values(SearchSpace(gpu, SpaceRequest()), "precision") == {"fp32", "tf32", "bf16", "fp16"}
    assert "pure_bf16" in values(SearchSpace(gpu, SpaceRequest(numerics="aggressive")), "precision")


def test_a_looser_choice_can_be_allowed_by_name() -> None:
    space = SearchSpace(make_situation(), SpaceRequest(numerics="exact", allow={"precision": ("pure_bf16",)}))
    assert values(space, "precision") == {"fp32", "pure_bf16"}


def test_fixing_and_forbidding_leave_what_they_say() -> None:
    request = SpaceRequest(fix={"attention": "eager", "micro_batch_size": "4"}, forbid={"optimizer": ("adamw_torch",)})
    space = SearchSpace(make_situation(), request)
    assert values(space, "attention") == {"eager"} and values(space, "micro_batch_size") == {4}
    assert "adamw_torch" not in values(space, "optimizer") and values(space, "accumulation_steps") == {8}


def test_fixing_the_accumulation_fixes_the_micro_batch() -> None:
    space = SearchSpace(make_situation(effective_batch=48), SpaceRequest(fix={"accumulation_steps": "3"}))
    assert values(space, "micro_batch_size") == {16}


def test_flash_attention_is_not_paired_with_32_bit_inputs() -> None:
    gpu = make_situation(kind="cuda", capability=(9, 0), missing={})
    space = SearchSpace(gpu, SpaceRequest())
    flash = {config["precision"] for config in space.configs if config["attention"] == "flash_attention_2"}
    assert flash == {"bf16", "fp16"}
    assert all(len(constraint.reason.split()) > 3 for constraint in CONSTRAINTS)


def test_compiling_in_fp32_is_not_called_exact_where_it_would_run_in_tf32() -> None:
    for capability, precisions in (((9, 0), {"tf32", "bf16", "fp16"}), ((7, 5), {"fp32", "fp16"})):
        space = SearchSpace(make_situation(kind="cuda", capability=capability, missing={}), SpaceRequest())
        assert {config["precision"] for config in space.configs if config["compile"] != "off"} == precisions


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        ({"fix": {"precision": "fp32"}, "forbid": {"precision": ("fp32",)}}, "forbidden by --forbid"),
        ({"fix": {"precision": "tf32"}}, "tf32 needs a GPU"),
        ({"forbid": {"precision": ("fp32", "bf16", "pure_bf16")}}, "No value of precision is left"),
        ({"fix": {"micro_batch_size": "5"}}, "does not divide"),
        ({"fix": {"micro_batch_size": "4", "accumulation_steps": "4"}}, "does not divide"),
        ({"forbid": {"micro_batch_size": ("1", "2", "4", "8", "16", "32")}}, "leave no way to split"),
        ({"fix": {"micro_batch_size": "many"}}, "whole number"),
    ],
)
def test_a_request_that_leaves_nothing_is_refused_with_the_reason(request_of: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SearchSpace(make_situation(), SpaceRequest(**request_of))


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        ({"numerics": "loose"}, "--numerics takes"),
        ({"fix": {"colour": "red"}}, "no knob 'colour'"),
        ({"forbid": {"attention": ("psychic",)}}, "has no value 'psychic'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(request_of: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SpaceRequest(**request_of)


def test_constraints_that_leave_nothing_are_named() -> None:
    gpu = make_situation(kind="cuda", capability=(9, 0), missing={})
    request = SpaceRequest(fix={"attention": "flash_attention_2", "precision": "fp32"})
    with pytest.raises(UserError, match="16-bit inputs only"):
        _ = SearchSpace(gpu, request).configs


def test_every_refused_choice_has_its_reason() -> None:
    situation = make_situation(kind="cuda", capability=(8, 0))
    request = SpaceRequest(forbid={"attention": ("eager",)})
    found = {(each.knob, each.value): each for each in SearchSpace(situation, request).refusals}
    assert str(found["attention", "flash_attention_2"]) == "flash_attention_2: flash-attn is not installed"
    assert "--numerics aggressive" in found["precision", "pure_bf16"].reason
    because = {place: each.because for place, each in found.items()}
    assert because["attention", "flash_attention_2"] is Because.NOT_INSTALLED
    assert because["precision", "pure_bf16"] is Because.NUMERICS
    assert because["attention", "eager"] is Because.REQUEST
    assert because["compile", "inductor"] is Because.UNAVAILABLE
    # What is searched in programs alone is not worth a word elsewhere.
    assert not [place for place in because if place[0] == "loader"]


def test_memory_grows_with_the_micro_batch_and_shrinks_with_checkpointing() -> None:
    small, large = make_config(micro_batch_size=4, accumulation_steps=8), make_config()
    saving = make_config(activation_checkpointing="every_layer")
    assert needs_at_least(large, small) and not needs_at_least(small, large)
    assert needs_at_least(large, saving) and not needs_at_least(saving, large)
    assert needs_at_least(large, large)


def test_accumulation_one_is_ruled_out_by_nothing_that_accumulates_and_rules_out_nothing_that_does() -> None:
    two = make_config(micro_batch_size=16, accumulation_steps=2)
    one = make_config(micro_batch_size=32, accumulation_steps=1)
    assert not needs_at_least(one, two) and not needs_at_least(two, one)
    assert needs_at_least(one, one.replace(activation_checkpointing="every_layer"))


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"attention": "eager"}, {"optimizer": "adamw_8bit"}])
def test_nothing_is_concluded_across_other_knobs(change: dict) -> None:
    assert not needs_at_least(make_config(**change), make_config(micro_batch_size=4, accumulation_steps=8))


VERSES = SampleLengths.of([4, 9, 30, 17])
ALL_ATTENTION = ("eager", "sdpa", "flash_attention_2", "torch_varlen", "flex_attention")


def test_padding_free_needs_an_attention_that_knows_the_documents_ends() -> None:
    gpu = make_situation(kind="cuda", capability=(9, 0), missing={}, lengths=VERSES, attention=ALL_ATTENTION)
    configs = SearchSpace(gpu, SpaceRequest()).configs
    flattened = {config["attention"] for config in configs if config["batch_layout"] == "flattened"}
    assert flattened == {"flash_attention_2", "torch_varlen", "flex_attention"}
    assert {config["batch_layout"] for config in configs if config["attention"] == "torch_varlen"} == {"flattened"}
    packed = {config["attention"] for config in configs if config["batch_layout"] == "packed"}
    assert packed == {"sdpa", "eager", "flex_attention"}


def test_compile_is_tried_where_batches_have_one_shape() -> None:
    gpu = make_situation(kind="cuda", capability=(9, 0), missing={}, lengths=VERSES)
    compiled = {
        config["batch_layout"] for config in SearchSpace(gpu, SpaceRequest()).configs if config["compile"] != "off"
    }
    assert compiled == {"fixed_padding"}
    equal = make_situation(kind="cuda", capability=(9, 0), missing={})
    compiled = {
        config["batch_layout"] for config in SearchSpace(equal, SpaceRequest()).configs if config["compile"] != "off"
    }
    assert compiled == {"dynamic_padding"}


def test_layouts_have_reasons_where_they_make_no_difference_or_no_sense() -> None:
    reasons = {refusal.value: refusal.reason for refusal in SearchSpace(make_situation(), SpaceRequest()).refusals}
    assert all("nothing to pad" in reasons[layout] for layout in ("flattened", "packed", "fixed_padding"))
    bert = SearchSpace(make_situation(task="masked-lm", lengths=VERSES), SpaceRequest())
    reasons = {refusal.value: refusal.reason for refusal in bert.refusals}
    assert "only causal attention keeps them apart" in reasons["flattened"]
    assert "batch_rebalance" in bert.choices["batch_layout"]
    assert "group_by_length" not in bert.choices["batch_layout"]
    allowed = SearchSpace(make_situation(lengths=VERSES), SpaceRequest(allow={"batch_layout": ("group_by_length",)}))
    assert "group_by_length" in allowed.choices["batch_layout"]


def test_with_4_bit_weights_only_16_bit_precisions_are_left() -> None:
    situation = make_situation(method="qlora", kind="cuda", capability=(9, 0), missing={})
    assert set(SearchSpace(situation, SpaceRequest(numerics="aggressive")).choices["precision"]) == {"bf16", "fp16"}


def test_a_large_space_is_asked_without_being_listed() -> None:
    gpu = make_situation(
        effective_batch=64, kind="cuda", capability=(9, 0), missing={}, lengths=VERSES, attention=ALL_ATTENTION
    )
    space = SearchSpace(gpu, SpaceRequest(numerics="aggressive"))
    assert len(space) > 20_000 and len(space) == len(space.configs)
    assert all(config in space for config in space.configs[::997])


def test_optimizers_are_paired_with_the_ways_of_sharing_that_they_can_step() -> None:
    situation = make_situation(kind="cuda", capability=(9, 0), processes=2, missing={})
    space = SearchSpace(situation, SpaceRequest())

    def ways(optimizer: str) -> set[str]:
        config = make_config(precision="bf16", optimizer=optimizer, micro_batch_size=8, accumulation_steps=2)
        return {way for way in space.choices["parallelism"] if config.replace(parallelism=way) in space}

    zero = {"zero2", "zero3", "zero3_offload"}
    assert ways("adamw_torch") == {"ddp", "fsdp2", "fsdp2_kept", "fsdp2_offload", *zero}
    assert ways("adamw_torch_8bit") == {"ddp", "fsdp2", "fsdp2_kept", "zero2", "zero3"}
    assert ways("adamw_8bit") == {"ddp", *zero}
    assert ways("paged_adamw_8bit") == {"ddp", "zero2", "zero3"}
    assert ways("adafactor") == set()  # another algorithm, which is not searched


@pytest.mark.parametrize(
    ("change", "method", "dtype", "forbidden"),
    [
        ({"precision": "pure_bf16"}, "full", "auto", ("zero2", "zero3", "zero3_offload")),
        ({"optimizer": "adafactor"}, "full", "auto", ("zero2", "zero3", "zero3_offload")),
        ({}, "qlora", "auto", ("zero3", "zero3_offload")),
        ({}, "lora", "float32", ("zero2", "zero3", "zero3_offload")),
        ({}, "lora", "bfloat16", ()),
        ({"precision": "fp32"}, "lora", "float32", ()),
    ],
    ids=str,
)
def test_deepspeed_is_not_searched_where_it_would_train_something_else(
    change: dict[str, str], method: str, dtype: str, forbidden: tuple[str, ...]
) -> None:
    situation = make_situation(kind="cuda", capability=(9, 0), processes=2, missing={}, method=method)
    if method != "full":
        workload = replace(situation.workload, adapter=Adapter(frozen_dtype=dtype))
        situation = replace(situation, workload=workload)
    space = SearchSpace(situation, SpaceRequest(numerics="aggressive"))
    config = make_config(**{"precision": "bf16", **change})
    zero = [value for value in space.choices["parallelism"] if is_zero(value)]
    assert len(zero) == 3
    assert tuple(value for value in zero if space.reasons_against(config.replace(parallelism=value))) == forbidden


def test_deepspeed_is_searched_on_gpus_where_it_is_installed() -> None:
    for kind, missing, said in (("cpu", {}, "needs a GPU"), ("cuda", {"deepspeed": "no DeepSpeed"}, "no DeepSpeed")):
        capability = (9, 0) if kind == "cuda" else None
        situation = make_situation(kind=kind, capability=capability, processes=2, missing=missing)
        space = SearchSpace(situation, SpaceRequest())
        refused = [each for each in space.refusals if is_zero(each.value)]
        assert len(refused) == 3 and all(said in each.reason for each in refused)
