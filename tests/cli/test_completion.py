"""Completion, asked for as argcomplete's shell functions ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autofit.cli.options import SUBCOMMANDS


def completed(line: str, tmp_path: Path) -> list[str]:
    """Words that the shell is offered for a line that ends at the cursor."""
    answers = tmp_path / "answers"
    environment = {
        **os.environ,
        "AUTOFIT_HOME": str(tmp_path / "home"),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answers),
    }
    ran = subprocess.run([sys.executable, "-m", "autofit"], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout == "", ran.stderr
    return [word.strip() for word in answers.read_text().splitlines()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("autofit ex", ["explain", "export"]),
        ("autofit Qwen/Qwen3-0.6B --effective-b", ["--effective-batch"]),
        ("autofit M --numerics ", ["exact", "standard", "aggressive"]),
        ("autofit show --al", ["--all"]),
        ("autofit plot -o x.png --chart mem", ["memory"]),
        ("autofit report sm", ["small-a", "small-b"]),
        ("autofit run --only", ["--only-recover"]),
    ],
)
def test_commands_options_choices_and_studies_are_completed(line: str, expected: list[str], tmp_path: Path) -> None:
    for name in ("small-a", "small-b", "large"):
        (tmp_path / "home" / "logs" / name).mkdir(parents=True)
    assert completed(line, tmp_path) == expected


def test_every_subcommand_is_offered(tmp_path: Path) -> None:
    assert set(SUBCOMMANDS) <= set(completed("autofit ", tmp_path))


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash is installed")
def test_the_documented_command_makes_a_function_for_bash() -> None:
    script = f'eval "$({Path(sys.executable).parent}/register-python-argcomplete autofit)" && complete -p autofit'
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0 and "_python_argcomplete" in ran.stdout
