"""Trainings of several processes on this machine's CPU: searched, measured, exported and run."""

from __future__ import annotations

import dataclasses
import os
import shlex
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import autofit
from autofit.errors import UserError
from autofit.export import write_export
from autofit.study.outcome import Outcome
from autofit.study.result import RENDEZVOUS_PORT

SETTING: dict[str, Any] = {
    "effective_batch": 8,
    "seq_len": 64,
    "device": "cpu",
    "numerics": "exact",
    "processes": 2,
    "budget": None,
}
PLAIN = {"attention": "sdpa", "optimizer": "adamw_torch_fused", "compile": "off", "activation_checkpointing": "off"}


@pytest.mark.whole
def test_a_search_measures_both_ways_of_sharing_at_the_effective_batch_of_all_processes(tiny_model: Path) -> None:
    fix = {**PLAIN, "micro_batch_size": 2}
    result = autofit.search(str(tiny_model), **SETTING, fix=fix, predict=False)
    ran = [trial for trial in result.trials if trial.outcome in (Outcome.OK, Outcome.SLOWER)]
    assert {"ddp", "fsdp2"} <= {trial.config["parallelism"] for trial in ran}, [
        (each.outcome, each.reason) for each in result.trials
    ]
    for measurement in (each.measurement for each in result.ranking.ranked):
        assert measurement.processes == 2
        assert measurement.micro_batch_size * measurement.accumulation_steps * 2 == 8
    assert result.ranking.best is not None and result.ranking.best.is_confirmed
    assert "torchrun --standalone --nproc-per-node 2 train.py" in str(result)


def test_what_each_process_needs_is_predicted_before_it_is_measured(tiny_model: Path) -> None:
    fix = {**PLAIN, "micro_batch_size": 2, "parallelism": "fsdp2"}
    result = autofit.search(str(tiny_model), **SETTING, fix=fix, max_trials=1)
    (trial,) = (trial for trial in result.trials if not trial.whole)
    assert trial.prediction is not None and trial.prediction.bytes_by_category["gathered"] >= 0
    assert trial.prediction.live_bytes < trial.measurement.memory.needed


@pytest.mark.whole
def test_a_limit_of_each_process_is_kept(tiny_model: Path) -> None:
    fix = {**PLAIN, "parallelism": "ddp"}
    setting = {**SETTING, "seq_len": 256, "effective_batch": 16}
    result = autofit.search(str(tiny_model), **setting, fix=fix, memory_limit="50MiB")
    outcomes = {trial.config.micro_batch_size: trial.outcome for trial in result.trials if not trial.whole}
    assert {Outcome.OOM, Outcome.OK} <= set(outcomes.values()), [(each.outcome, each.reason) for each in result.trials]
    usable = result.situation.limits.usable_bytes
    assert all(each.measurement.memory.needed <= usable for each in result.ranking.ranked)


def test_an_effective_batch_that_processes_cannot_share_is_refused(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="3 processes"):
        autofit.search(str(tiny_model), **{**SETTING, "processes": 3})


@pytest.mark.whole
@pytest.mark.parametrize("parallelism", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_the_exported_file_trains_in_as_many_processes(tiny_model: Path, tmp_path: Path, parallelism: str) -> None:
    fix = {**PLAIN, "micro_batch_size": 2, "parallelism": parallelism}
    result = autofit.search(str(tiny_model), **SETTING, fix=fix, max_trials=1)
    path = tmp_path / "train_args.py"
    write_export(result, "training-arguments", path)
    check = tmp_path / "check.py"
    check.write_text(CHECK)
    ended = _run(
        tmp_path, [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], check
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    kind = "DTensor" if parallelism == "fsdp2" else "Parameter"
    assert f"2 processes, effective batch 8, 3 steps, {kind}" in ended.stdout
    alone = _run(tmp_path, [sys.executable], check)
    assert alone.returncode != 0 and "torchrun --standalone --nproc-per-node 2" in alone.stderr


@pytest.mark.whole
def test_the_file_for_two_nodes_trains_at_the_effective_batch_of_both(tiny_model: Path, tmp_path: Path) -> None:
    """Two of torchrun's agents on this machine: what each would be on a node of its own."""
    fix = {**PLAIN, "micro_batch_size": 2}
    one = autofit.search(str(tiny_model), **{**SETTING, "processes": 1}, fix=fix, max_trials=1, predict=False)
    result = dataclasses.replace(one, nodes=2)
    write_export(result, "training-arguments", tmp_path / "train_args.py")
    check = tmp_path / "check.py"
    check.write_text(CHECK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = shlex.split(result.launcher(head="127.0.0.1").replace(str(RENDEZVOUS_PORT), str(port)))
    assert words.pop(0) == "torchrun"
    agent = [sys.executable, "-m", "torch.distributed.run", *words]
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda _: _run(tmp_path, agent, check), range(2)))
    assert all(each.returncode == 0 for each in ended), [each.stderr[-2000:] for each in ended]
    assert sum("2 processes, effective batch 8, 3 steps, Parameter" in each.stdout for each in ended) == 1


CHECK = """
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Trainer
from train_args import EFFECTIVE_BATCH, MODEL, data_collator, training_arguments

arguments = training_arguments("output", num_train_epochs=1, save_strategy="no", report_to="none", disable_tqdm=True)
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(MODEL))
samples = [{"input_ids": [1] * 64, "attention_mask": [1] * 64, "labels": [1] * 64}] * (3 * EFFECTIVE_BATCH)
trainer = Trainer(model=model, args=arguments, train_dataset=samples, data_collator=data_collator())
trainer.train()
if arguments.process_index == 0:
    batch = trainer.get_total_train_batch_size(arguments)
    kind = type(next(trainer.model_wrapped.parameters())).__name__
    print(f"{arguments.world_size} processes, effective batch {batch}, {trainer.state.global_step} steps, {kind}")
torch.distributed.barrier()
import os
import sys
sys.stdout.flush()
os._exit(0)  # one run in twenty aborts when the interpreter ends
"""


def _run(folder: Path, launcher: list[str], program: Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, str(program)], capture_output=True, text=True, timeout=200, cwd=folder, env=variables, check=False
    )
