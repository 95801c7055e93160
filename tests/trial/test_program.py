"""What is said of a program that ended before it trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from autofit.trial.program import LAST_LINES, last_lines


def test_of_torchrun_the_failed_programs_words_are_shown_and_not_its_own(tmp_path: Path) -> None:
    program, log = tmp_path / "train.py", tmp_path / "program.log"
    program.write_text("import torch\nraise ValueError('there is no such file')\n")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)
    assert "ChildFailedError" in ended.stderr
    log.write_text(ended.stderr)
    shown = last_lines(log)
    assert shown.rstrip().endswith("ValueError: there is no such file") and "ChildFailedError" not in shown


def test_of_other_programs_the_last_lines_are_shown(tmp_path: Path) -> None:
    log = tmp_path / "program.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert last_lines(log).split("\n")[1:-1] == [f"line {number}" for number in range(100 - LAST_LINES, 100)]
    log.write_text("")
    assert last_lines(log) == " It printed nothing."
