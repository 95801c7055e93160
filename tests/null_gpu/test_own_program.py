"""A program of one's own on a card that is not there: it is kept from opening the card, forked, and given it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.null_gpu.conftest import NullGpu
from tests.null_gpu.test_search import answer
from tests.test_own_program import MODEL

pytestmark = pytest.mark.null_gpu

PROGRAMS = Path(__file__).parents[2] / "examples" / "programs"
PLAIN = str(PROGRAMS / "plain.py")
OF_ONE_LENGTH = [str(PROGRAMS / "arguments.py"), "--do_train", "--output_dir", "output", "--max_steps", "20"]
SPLIT = dict.fromkeys(("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size"), "auto")
OF_ONE_LENGTH += ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2"]


def test_trials_are_forked_from_a_program_that_would_have_opened_the_card(null_gpu: NullGpu) -> None:
    plain = ["attention=sdpa", "kernels=default", "compile=off", "precision=bf16", "optimizer=adamw_torch_fused"]
    fixed = [word for each in plain for word in ("--fix", each)]
    ended = null_gpu.autofit("run", "--max-trials", "3", *fixed, "--json", "--", sys.executable, PLAIN)
    assert ended.returncode == 0, ended.stderr[-4000:]
    document = json.loads(ended.stdout)
    assert "fresh Python" not in ended.stderr and "Not predicted" not in ended.stderr, ended.stderr
    assert document["device"]["kind"] == "cuda" and document["workload"]["effective_batch"] == 16
    measured = [trial for trial in document["trials"] if trial["measurement"]]
    assert measured and document["ranking"]
    for trial in measured:
        # The model is on the card, and so are the optimizer's two moments: 12 bytes a parameter and more.
        allocated = trial["measurement"]["peak_allocated_bytes"]
        assert allocated > 12 * document["model"]["num_parameters"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        "kernels=liger",
        "optimizer=paged_adamw_8bit",
        "activation_checkpointing=offload",
        "allocator=expandable",
        "compile=inductor",
    ],
)
def test_every_kind_of_setting_gets_through_its_whole_run_in_a_program(null_gpu: NullGpu, setting: str) -> None:
    words = ["--max-trials", "3", "--fix", "precision=bf16", "--fix", setting, "--json"]
    # What is compiled has to have one length.
    program = OF_ONE_LENGTH if setting.startswith("compile") else [PLAIN]
    ended = null_gpu.autofit("run", *words, "--", sys.executable, *program)
    assert ended.returncode == 0, ended.stderr[-4000:]
    document = json.loads(ended.stdout)
    name, value = setting.split("=")
    whole = [trial for trial in document["trials"] if trial["whole"] and trial["outcome"] == "ok"]
    assert whole and whole[-1]["config"][name] == value


def test_a_program_that_deepspeed_cuts_into_parts_on_two_cards_is_searched(
    null_gpu: NullGpu, tmp_path: Path, deepspeed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", deepspeed)
    settings = {**SPLIT, "bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 3}}
    (tmp_path / "ds.json").write_text(json.dumps(settings))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, *OF_ONE_LENGTH, "--bf16", "--deepspeed", str(tmp_path / "ds.json")]
    fixed = ["--fix", "optimizer=adamw_torch_fused", "--fix", "attention=sdpa", "--fix", "micro_batch_size=4"]
    ended = null_gpu.autofit("run", "--max-trials", "2", *fixed, "--json", "--", *command, CARDS="2")
    assert ended.returncode == 0, ended.stderr[-4000:]
    document = json.loads(ended.stdout)
    assert document["workload"]["processes"] == 2 and document["workload"]["effective_batch"] == 32
    own, other = (trial["config"] for trial in document["trials"][:2])
    assert (own["micro_batch_size"], other["micro_batch_size"]) == (8, 4)
    assert {own["parallelism"], other["parallelism"]} == {"zero3"} and own["precision"] == "bf16"
    assert {trial["outcome"] for trial in document["trials"][:2]} == {"ok"}, document["trials"]


TO_THE_CARD = """
import torch
from shared import trainer_of

torch.zeros(1, device="cuda")
trainer_of(use_cpu=False).train()
"""


@pytest.mark.slow
def test_a_program_that_has_opened_the_card_is_started_anew_for_every_trial(
    null_gpu: NullGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shared.py").write_text(MODEL)
    (tmp_path / "train.py").write_text(TO_THE_CARD)
    fixed = ["--fix", "precision=fp32", "--fix", "attention=sdpa", "--max-trials", "2", "--json"]
    ended = null_gpu.autofit("run", *fixed, "--", sys.executable, "train.py")
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "it uses the GPU before it trains" in ended.stderr and "Nothing is predicted" in ended.stderr
    document = json.loads(ended.stdout)
    assert [trial["outcome"] for trial in document["trials"]] == ["ok", "ok"]


@pytest.mark.slow
def test_a_launcher_that_cuts_parameters_into_parts_keeps_its_way_and_its_precision(null_gpu: NullGpu) -> None:
    launcher = ["accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"]
    launcher += ["--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--mixed_precision", "bf16"]
    fixed = ["--fix", "attention=sdpa", "--fix", "kernels=default", "--fix", "compile=off", "--max-trials", "3"]
    ended = null_gpu.autofit("run", *fixed, "--json", "--", sys.executable, "-m", *launcher, PLAIN, CARDS="2")
    document = answer(ended)
    measured = [trial for trial in document["trials"] if trial["outcome"] == "ok"]
    assert document["recommendation"]["confirmed"] and measured
    assert document["workload"]["processes"] == 2 and document["workload"]["effective_batch"] == 32
    assert {trial["config"]["parallelism"] for trial in measured} == {"fsdp2"}
    assert {trial["config"]["precision"] for trial in measured} == {"bf16"}


@pytest.mark.slow
def test_a_program_that_leaves_the_way_of_sharing_to_its_arguments_trains_in_another(null_gpu: NullGpu) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    fixed = [word for each in ("attention=sdpa", "kernels=default", "compile=off") for word in ("--fix", each)]
    fixed += ["--fix", "parallelism=fsdp2", "--max-trials", "2", "--json"]
    document = answer(null_gpu.autofit("run", *fixed, "--", *launcher, PLAIN, CARDS="2"))
    assert document["trials"][0]["config"]["parallelism"] == "ddp"
    assert document["recommendation"]["training_arguments"]["fsdp"] is True
    # Trials whose parameters are not in parts end as errors.
    ways = {trial["config"]["parallelism"]: trial["outcome"] for trial in document["trials"]}
    assert ways["ddp"] == ways["fsdp2"] == "ok"
