"""Changes in a program, in its own values and as its own command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser, TrainingArguments

from autofit.job.program import Program
from autofit.report.own_program import ARGUMENTS, ENVIRONMENT, MODEL, Change, changed_command, changes_of
from autofit.study.recommendation import Recommendation


def program(*command: str, takes_flags: bool = True, **settings: Any) -> Program:
    return Program(
        takes_flags=takes_flags,
        command=command or ("python", "train.py"),
        code="0" * 16,
        trainer="Trainer",
        model="LlamaForCausalLM",
        micro_batch_size=8,
        accumulation_steps=2,
        settings={"optim": "adamw_torch_fused", "dtype": "float32", "attn_implementation": "sdpa", **settings},
    )


def recommendation(**changes: Any) -> Recommendation:
    nothing: dict[str, Any] = {"training_arguments": {}, "model_kwargs": {}, "environment": {}}
    return Recommendation(
        **{
            "trial": 0,
            "collator": "",
            "collator_kwargs": {},
            "adapter": None,
            "quantization": None,
            "reasons": (),
            **nothing,
            **changes,
        }
    )


def test_only_what_differs_is_a_change() -> None:
    arguments = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "bf16": True, "fp16": False}
    found = changes_of(program(bf16=False, fp16=False), recommendation(training_arguments=arguments))
    assert [str(change) for change in found] == [
        "per_device_train_batch_size: 8 -> 16",
        "gradient_accumulation_steps: 2 -> 1",
        "bf16: False -> True",
    ]


def test_model_and_environment_say_where_they_are_set() -> None:
    asked = recommendation(
        model_kwargs={"attn_implementation": "eager"}, environment={"PYTORCH_CUDA_ALLOC_CONF": "expandable"}
    )
    assert [change.place for change in changes_of(program(), asked)] == [ENVIRONMENT, MODEL]


def change(name: str, after: Any, place: str = ARGUMENTS) -> Change:
    return Change(name=name, before=None, after=after, place=place)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python t.py --per_device_train_batch_size 8 --lr 1", "python t.py --per_device_train_batch_size 16 --lr 1"),
        ("python t.py --per_device_train_batch_size=8", "python t.py --per_device_train_batch_size=16"),
        ("python t.py --per-device-train-batch-size 8", "python t.py --per-device-train-batch-size 16"),
        ("python t.py --output_dir o", "python t.py --output_dir o --per_device_train_batch_size 16"),
        ("python t.py", "python t.py --per_device_train_batch_size 16"),
        (
            "python t.py --per_device_train_batch_size 4 --per_device_train_batch_size 8",
            "python t.py --per_device_train_batch_size 4 --per_device_train_batch_size 16",
        ),
        (
            "accelerate launch --per_device_train_batch_size 4 t.py --per_device_train_batch_size 8",
            "accelerate launch --per_device_train_batch_size 4 t.py --per_device_train_batch_size 16",
        ),
        (
            "python -m torch.distributed.run --per_device_train_batch_size 4 -m a.t --bf16",
            "python -m torch.distributed.run --per_device_train_batch_size 4 -m a.t --bf16 "
            "--per_device_train_batch_size 16",
        ),
    ],
)
def test_flags_are_changed_where_a_command_has_them(command: str, expected: str | None) -> None:
    assert changed_command(program(*command.split()), [change("per_device_train_batch_size", 16)]) == expected


@pytest.mark.parametrize(
    ("words", "takes"),
    [
        ("python t.py --output_dir o", False),
        ("trl sft --config s.yaml", True),
        ("python t.py --per_device_eval_batch_size 8", False),
    ],
)
def test_a_command_whose_program_reads_no_training_arguments_gets_no_flags(words: str, takes: bool) -> None:
    changed = changed_command(program(*words.split(), takes_flags=False), [change("per_device_train_batch_size", 16)])
    assert changed == (f"{words} --per_device_train_batch_size 16" if takes else None)


def test_a_switch_without_a_value_gets_one() -> None:
    command = program("python", "t.py", "--gradient_checkpointing", "--output_dir", "o")
    changed = changed_command(command, [change("activation_checkpointing", False)])
    assert changed == "python t.py --gradient_checkpointing False --output_dir o"


def test_flags_that_ask_for_fsdp_are_understood_as_that(tmp_path: Path) -> None:
    settings = {"version": 2, "reshard_after_forward": False}
    command = program("python", "t.py", "--output_dir", str(tmp_path), "--use_cpu")
    changed = changed_command(command, [change("fsdp", True), change("fsdp_config", settings), change("bf16", True)])
    assert changed is not None
    (read,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(shlex.split(changed)[2:])
    asked = TrainingArguments(str(tmp_path), use_cpu=True, fsdp=True, fsdp_config=settings)
    assert read.fsdp_plugin_args == asked.fsdp_plugin_args and read.bf16


def test_variables_come_before_the_command() -> None:
    command = program("python", "t.py", "--output_dir", "o")
    assert changed_command(command, [change("A", "b", ENVIRONMENT)]) == "A=b python t.py --output_dir o"


def test_what_is_set_in_code_gives_no_command() -> None:
    command = program("python", "t.py", "--output_dir", "o")
    assert changed_command(command, [change("attn_implementation", "eager", MODEL)]) is None
