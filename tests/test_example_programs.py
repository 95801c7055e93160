"""The example programs, each searched for real: found and described as what they are, at their own effective batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autofit.cli.main import main

pytestmark = [pytest.mark.usefixtures("short_measuring"), pytest.mark.whole]

PROGRAMS = Path(__file__).parents[1] / "examples" / "programs"
FLAGS = "--output_dir output --do_train --per_device_train_batch_size 8 --gradient_accumulation_steps 2 --max_steps 20"
RUNS = {
    "own_module": ("own_module.py", "OwnLoss, Recurrent"),
    "sft-packing": ("sft.py packing", "SFTTrainer, LlamaForCausalLM"),
    "plain": ("plain.py", "Trainer, LlamaForCausalLM"),
    "arguments": (f"arguments.py {FLAGS}", "478 samples of 64 tokens each"),
    "sft": ("sft.py plain", "SFTTrainer"),
    "sft-padding-free": ("sft.py padding-free", "padding-free"),
    "sft-completion": ("sft.py completion", "SFTTrainer"),
    "lora": ("lora.py", "LoRA of rank 8"),
    "dpo": ("dpo.py", "DPOTrainer"),
    "classifier": ("classifier.py", "LlamaForSequenceClassification"),
    "seq2seq": ("seq2seq.py", "Seq2SeqTrainer, T5ForConditionalGeneration"),
    "stream": ("stream.py", "a stream of"),
}
OPTIONS = ["run", "--device", "cpu", "--max-trials", "1", "--json", "--fix", "precision=fp32"]


def searched(command: list[str], capfd: pytest.CaptureFixture[str], described: str) -> None:
    capfd.readouterr()
    assert main([*OPTIONS, "--", *command]) == 0
    output, progress = capfd.readouterr()
    document = json.loads(output)
    assert described in progress
    assert document["workload"]["effective_batch"] == 16 and document["trials"][0]["outcome"] == "ok"
    # Nothing that its training would have saved.
    assert not list(Path("output").rglob("*.safetensors"))


@pytest.mark.parametrize(
    "name", [name if number < 2 else pytest.param(name, marks=pytest.mark.slow) for number, name in enumerate(RUNS)]
)
def test_a_program_is_found_and_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, described = RUNS[name]
    script, *rest = words.split()
    searched([sys.executable, str(PROGRAMS / script), *rest], capfd, described)


@pytest.mark.slow
def test_trls_own_command_is_found_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, str(PROGRAMS / "prepare.py")], check=True, capture_output=True)
    command = [str(Path(sys.executable).with_name("trl")), "sft", "--config", str(PROGRAMS / "sft.yaml")]
    searched(command, capfd, "SFTTrainer")
