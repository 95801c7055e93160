"""Exports that launch a training: accelerate's file read by accelerate, Slurm's script run by a shell, TRL's Python."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from autofit.errors import UserError
from autofit.export import EXPORTERS, write_export
from autofit.export.slurm import _clock
from autofit.job.lengths import SampleLengths
from autofit.knobs.allocator import VARIABLE
from autofit.knobs.own_program import own_config
from autofit.study.result import Result, Run
from tests.doubles import make_trial
from tests.export.test_formats import (
    NEEDS_CUDA,
    VALUES,
    check_arguments,
    document_of,
    result_with,
    skip_without_deepspeed,
)
from tests.export.test_program_settings import program_result
from tests.export.test_training_arguments import make_result
from tests.knobs.test_own_program import situation_of
from tests.study.test_store import make_record


def on_a_card(result: Result, index: int = 3) -> Result:
    device = dataclasses.replace(result.situation.device, kind="cuda", name="NVIDIA H100", index=index)
    return dataclasses.replace(result, situation=dataclasses.replace(result.situation, device=device))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16", "pure_bf16"])
def test_accelerate_launches_one_process_on_the_measured_card_in_its_precision(precision: str, tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    exported = EXPORTERS["accelerate"](on_a_card(result_with(precision=precision)))
    path = tmp_path / "accelerate.yaml"
    path.write_text(exported.text)
    load_config_from_file(str(path))
    words = ["--config_file", str(path), "train.py"]
    arguments, _, says_precision = _validate_launch_command(launch_command_parser().parse_args(words))
    assert (arguments.num_processes, arguments.gpu_ids, arguments.multi_gpu) == (1, "3", False)
    expected = precision if precision in ("bf16", "fp16") else "no"
    assert says_precision and arguments.mixed_precision == expected
    assert arguments.dynamo_backend == "no" and not arguments.use_cpu
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(document_of(exported)) <= known | {"distributed_type", "compute_environment"} | {"debug", "use_cpu"}


def test_accelerate_trains_on_the_processor_where_that_was_measured(tmp_path: Path) -> None:
    exported = EXPORTERS["accelerate"](result_with())
    document = document_of(exported)
    assert document["use_cpu"] is True and "gpu_ids" not in document
    assert any("OMP_NUM_THREADS" in each for each in exported.left_out)


def run_script(text: str, tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a batch script with an ``srun`` that prints what it is given, and the variables that it sees."""
    programs = tmp_path / "programs"
    programs.mkdir(exist_ok=True)
    srun = programs / "srun"
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\nenv\n')
    srun.chmod(0o755)
    script = tmp_path / "job.sbatch"
    script.write_text(text)
    environment = {"SLURM_CPUS_PER_TASK": "4", "PATH": f"{programs}:{os.environ['PATH']}", **variables}
    return subprocess.run(["bash", str(script)], capture_output=True, text=True, env=environment, cwd=tmp_path)


def options_of(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return dict(line.split("=", 1) for line in lines)


def test_a_slurm_script_asks_for_one_card_and_trains_with_the_exported_file_and_the_measured_variables(
    tmp_path: Path,
) -> None:
    result = on_a_card(result_with(allocator="expandable"))
    timed = dataclasses.replace(result, run=Run(samples=32 * 3600))
    exported = EXPORTERS["slurm"](timed)
    options = options_of(exported.text)
    # 3,600 steps of a second, a fifth more, and ten minutes.
    assert (options["gpus-per-node"], options["nodes"], options["time"]) == ("1", "1", "0-01:22:00")
    assert "time" not in options_of(EXPORTERS["slurm"](result).text)
    assert run_script(exported.text, tmp_path).returncode != 0, "no text was named"
    ran = run_script(exported.text, tmp_path, TEXT="my.txt")
    words = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stderr
    assert words[0] == "--cpus-per-task=4" and words[1:7] == [
        "python",
        "train_args.py",
        "--text",
        "my.txt",
        "--output-dir",
        "output",
    ]
    assert f"{VARIABLE}=expandable_segments:True" in words
    assert exported.left_out == ()


def test_a_slurm_script_of_a_program_runs_its_command_with_the_changes(tmp_path: Path) -> None:
    result = program_result("python", "train.py", "--per_device_train_batch_size", "8", "--name", "a b")
    exported = EXPORTERS["slurm"](result)
    ran = run_script(exported.text, tmp_path)
    words = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stderr
    assert words[1:4] == ["python", "train.py", "--per_device_train_batch_size"] and "a b" in words
    assert words[4] == "16" and "bf16" in exported.text
    assert program_result().recommendation is not None
    in_code = EXPORTERS["slurm"](program_result())
    assert " python train.py" in in_code.text and "bf16: True -> False" in in_code.left_out[0]


def test_minutes_of_a_job_are_rounded_up() -> None:
    assert _clock(61) == "0-00:02:00" and _clock(25 * 3600) == "1-01:00:00"


@pytest.fixture
def kept_environment() -> Iterator[None]:
    """The variables as they were, after a file has set its own."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("knob", "value", "method"),
    [*((knob, value, "full") for knob, value in VALUES), ("precision", "bf16", "lora"), ("precision", "bf16", "qlora")],
    ids=str,
)
def test_trls_python_is_what_sft_config_takes_for_every_value(
    knob: str, value: str, method: str, tmp_path: Path, kept_environment: None
) -> None:
    skip_without_deepspeed(value)
    result = result_with(method=method, **{knob: value})
    exported = EXPORTERS["trl-python"](result)
    path = tmp_path / "sft.py"
    path.write_text(exported.text)
    names = runpy.run_path(str(path))
    refused = dict.fromkeys(NEEDS_CUDA, None)
    written = copy.deepcopy(names["SFT_ARGUMENTS"])  # TrainingArguments writes into some of them
    understood = names["sft_config"](str(tmp_path), use_cpu=True, **refused)
    check_arguments(understood, result, exported)
    assert understood.packing is False
    yaml_document = document_of(EXPORTERS["trl"](result))
    for name, setting in written.items():
        assert yaml_document[name] == setting, name
    assert result.recommendation is not None
    assert ("LORA" in names) == (method != "full") and ("QUANTIZATION" in names) == (method == "qlora")
    assert names["MODEL_KWARGS"]["dtype"] == result.recommendation.model_kwargs["dtype"]


def test_trls_python_trains_a_model_at_the_measured_batch(tmp_path: Path, kept_environment: None) -> None:
    import datasets
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    result = make_result(
        make_trial(micro_batch_size=4, accumulation_steps=8), lengths=SampleLengths.of([4, 8] * 8), method="lora"
    )
    path = tmp_path / "sft.py"
    path.write_text(EXPORTERS["trl-python"](result).text)
    names = runpy.run_path(str(path))
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=64
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "a": 1}, unk_token="a")),
        pad_token="<pad>",
        eos_token="<pad>",
    )
    names["trainer"].__globals__["load_model"] = lambda: AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", **names["MODEL_KWARGS"]
    )
    with pytest.raises(SystemExit, match="effective batch of 8 here, not 32"):
        names["sft_config"](str(tmp_path), per_device_train_batch_size=1)
    samples = datasets.Dataset.from_dict({"input_ids": [[1, 1, 1, 1]] * 64, "attention_mask": [[1] * 4] * 64})
    trainer = names["trainer"](
        samples,
        names["sft_config"](str(tmp_path / "out"), max_steps=2, use_cpu=True, report_to="none"),
        processing_class=tokenizer,
    )
    ended = trainer.train()
    assert ended.global_step == 2 and trainer.model.peft_config
    arguments = trainer.args
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 32
    assert yaml.safe_load(EXPORTERS["trl"](result).text)["per_device_train_batch_size"] == 4


def test_what_a_program_keeps_of_its_own_is_in_the_files_that_launch_it() -> None:
    """A recommendation for a program holds what changes, and nothing of what stays."""
    situation = situation_of(bf16=True, dataloader_num_workers=6)
    assert situation.program is not None
    own = own_config(situation.program)
    trial = dataclasses.replace(make_trial(0), values=dict(own))
    record = make_record(workload=situation.workload, situation=situation)
    result = Result(study="s", storage="sqlite://", record=record, situation=situation, trials=(trial,))
    assert document_of(EXPORTERS["accelerate"](result))["mixed_precision"] == "bf16"
    assert json.loads(EXPORTERS["deepspeed"](result).text)["bf16"] == {"enabled": True}
    script = EXPORTERS["slurm"](result)
    assert options_of(script.text)["cpus-per-task"] == "8" and script.left_out == ()


def test_a_node_without_a_card_is_asked_for_the_cores_that_were_measured_with() -> None:
    result = result_with()
    device = dataclasses.replace(result.situation.device, name="AMD EPYC (24 cores)")
    many = dataclasses.replace(result, situation=dataclasses.replace(result.situation, device=device))
    assert options_of(EXPORTERS["slurm"](many).text)["cpus-per-task"] == "24"


def test_a_slurm_script_for_several_nodes_starts_one_launcher_on_each_and_shares_the_accumulation(
    tmp_path: Path,
) -> None:
    result = dataclasses.replace(on_a_card(result_with(micro_batch_size=4, accumulation_steps=8)), nodes=2)
    exported = EXPORTERS["slurm"](result)
    options = options_of(exported.text)
    assert (options["nodes"], options["ntasks"], options["ntasks-per-node"]) == ("2", "2", "1")
    assert "NOT MEASURED ON 2 NODES" in exported.text and "--nodes 2" in exported.text
    scontrol = tmp_path / "programs" / "scontrol"
    scontrol.parent.mkdir()
    # More names than a pipe holds: whoever reads the first one only leaves scontrol writing.
    scontrol.write_text('#!/bin/bash\necho "$3-first"; for ((i = 0; i < 9000; i++)); do echo "$3-other-node"; done\n')
    scontrol.chmod(0o755)
    ran = run_script(exported.text, tmp_path, TEXT="my.txt", SLURM_JOB_NODELIST="rack")
    assert ran.returncode == 0, ran.stderr
    words = ran.stdout.splitlines()
    assert words[1:4] == ["torchrun", "--nnodes", "2"] and "rack-first:29500" in words
    assert result.recommendation is not None
    assert result.recommendation.training_arguments["gradient_accumulation_steps"] == 4


def test_what_cannot_be_written_for_several_nodes_is_refused(tmp_path: Path) -> None:
    uneven = dataclasses.replace(result_with(micro_batch_size=32, accumulation_steps=1), nodes=2)
    with pytest.raises(UserError, match="1 accumulation step cannot be shared evenly by 2 nodes"):
        write_export(uneven, "yaml", tmp_path / "a.yaml")
    with pytest.raises(UserError, match="markdown is exported for one node; --nodes goes with training-arguments"):
        write_export(uneven, "markdown", tmp_path / "a.md")
    with pytest.raises(UserError, match="a program's own launcher"):
        write_export(dataclasses.replace(program_result(), nodes=2), "yaml", tmp_path / "b.yaml")
