"""The exported settings of a program of one's own: only what differs, in Python that runs."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from autofit.export import EXPORTERS, accelerate_config
from autofit.export.training_arguments import serialize
from autofit.knobs.own_program import own_config
from autofit.study.result import Result
from tests.doubles import make_measurement, make_trial
from tests.export.test_training_arguments import make_result
from tests.knobs.test_own_program import situation_of
from tests.study.test_store import make_record


def program_result(*command: str) -> Result:
    """Result of a program, trained in bf16 as it is, whose best micro-batch is 16, in fp32."""
    situation = situation_of(bf16=True)
    assert situation.program is not None
    if command:
        program = msgspec.structs.replace(situation.program, command=command, takes_flags=len(command) > 2)
        situation = dataclasses.replace(situation, program=program)
        assert situation.program is not None
    config = own_config(situation.program).replace(micro_batch_size=16, accumulation_steps=2, precision="fp32")
    trial = dataclasses.replace(
        make_trial(0, whole=True), values=dict(config), measurement=make_measurement(micro_batch_size=16)
    )
    record = make_record(workload=situation.workload, situation=situation)
    return Result(study="s", storage="sqlite://", record=record, situation=situation, trials=(trial,))


def test_accelerates_file_says_that_it_leaves_out_what_the_launcher_shares_the_model_by() -> None:
    result = program_result()
    program = result.situation.program
    assert program is not None and not any("FSDP" in each for each in accelerate_config.serialize(result).left_out)
    settings = {**program.settings, "fsdp": True}
    launched = msgspec.structs.replace(program, settings=settings, own={"parallelism": "its launcher asks for it"})
    situation = dataclasses.replace(result.situation, program=launched)
    left_out = accelerate_config.serialize(dataclasses.replace(result, situation=situation)).left_out
    assert "FSDP, for which the program's launcher asks: keep its settings" in left_out


def test_the_file_says_in_how_many_processes_it_was_measured() -> None:
    result = program_result()
    workload = dataclasses.replace(result.record.workload, processes=2)
    shared = dataclasses.replace(result, record=msgspec.structs.replace(result.record, workload=workload))
    assert "samples in 2 processes" in serialize(shared).text and "samples in" not in serialize(result).text


@pytest.mark.parametrize("name", ["axolotl", "llama-factory", "ms-swift", "unsloth", "trl", "accelerate"])
def test_a_file_that_starts_one_process_says_that_it_was_measured_in_several(name: str) -> None:
    result = make_result(make_trial())  # on a CPU, where accelerate launch starts one
    workload = dataclasses.replace(result.record.workload, processes=4)
    shared = dataclasses.replace(result, record=msgspec.structs.replace(result.record, workload=workload))
    sentence = "the 4 processes that it was measured in"
    assert any(sentence in each for each in EXPORTERS[name](shared).left_out)
    assert not any("processes that" in each for each in EXPORTERS[name](result).left_out)


def test_the_file_holds_what_differs_and_puts_it_into_your_own_settings() -> None:
    text = serialize(program_result()).text
    names: dict = {}
    exec(text, names)
    yours = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "bf16": True, "learning_rate": 1e-4}
    changed = names["changed"](yours)
    assert changed["per_device_train_batch_size"] * changed["gradient_accumulation_steps"] == names["EFFECTIVE_BATCH"]
    assert changed["bf16"] is False and changed["learning_rate"] == 1e-4
    assert "per_device_train_batch_size: 8 -> 16" in text and "bf16: True -> False" in text
    assert "@" not in text
