"""The examples, as their README tells people to run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[1]


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_exported_arguments_train_a_model_on_real_text(tmp_path: Path) -> None:
    exported = tmp_path / "train_args.py"
    job = [
        "examples/small-llama",
        "--effective-batch",
        "16",
        "--seq-len",
        "128",
        "--max-trials",
        "3",
        "--fix",
        "compile=off",
    ]
    run("-m", "autofit", *job, "--numerics", "exact", "--export", f"training-arguments={exported}")
    output = run("examples/train_on_text.py", str(exported), "--output-dir", str(tmp_path / "output"))
    found = re.search(r"(\d+) x (\d+)\): loss (\d+\.\d+) -> (\d+\.\d+)", output)
    assert found is not None, output
    micro, accumulation, first, last = (float(group) for group in found.groups())
    assert micro * accumulation == 16
    characters = len((ROOT / "examples" / "genesis.txt").read_bytes())
    assert abs(int(output.split(" samples")[0].rsplit(None, 1)[-1]) - characters // 128) < 10
    assert last < first - 1.0, "the loss must fall from that of a fresh model"


def test_the_library_call_prints_the_result_and_makes_arguments() -> None:
    output = run("examples/library_call.py", "--max-trials", "2", "--effective-batch", "6")
    assert "Use this" in output and "TrainingArguments at an effective batch of 6" in output
    assert "The whole run: 5,001 optimizer steps" in output
