"""Trouble of the environment is a sentence with its remedy, and never called a fault in autofit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autofit.study.store import open_study
from tests.doubles import make_situation, make_trial
from tests.study.test_store import add, make_record


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """A study with one trial."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = open_study(url, make_record(situation=make_situation()), "one", fresh=False)
    add(study, make_trial(0))
    return url


def show(storage: str, *, shell: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m autofit show --storage {storage} {shell}"
    environment = {**os.environ, **variables}
    return subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, check=False)


def test_a_full_disk_behind_stdout_is_a_sentence(storage: str) -> None:
    ended = show(storage, shell="> /dev/full")
    assert ended.returncode == 1 and ended.stderr.startswith("autofit: No space left on device")
    assert "Traceback" not in ended.stderr and "fault in autofit" not in ended.stderr and ended.stderr.count("\n") == 1


def test_a_stdout_that_knows_ascii_only_gets_the_report(storage: str) -> None:
    ended = show(storage, shell="", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert ended.returncode == 0 and "Use this" in ended.stdout


def test_a_closed_stderr_does_no_harm(storage: str) -> None:
    ended = show(storage, shell="2>&-")
    assert ended.returncode == 0 and "Use this" in ended.stdout


def test_a_home_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "autofit", "show"]
    environment = {**os.environ, "AUTOFIT_HOME": str(tmp_path / "file" / "home")}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode in (1, 2) and ended.stderr.startswith("autofit: ") and "fault" not in ended.stderr


def test_a_storage_that_may_only_be_read_is_a_sentence() -> None:
    import sqlalchemy.exc

    from autofit.cli.main import _of_the_storage

    error = sqlalchemy.exc.OperationalError("insert", {}, Exception("attempt to write a readonly database"))
    sentence = _of_the_storage(error)
    assert sentence is not None and "readonly database" in sentence and "AUTOFIT_HOME" in sentence
    assert _of_the_storage(ValueError("something else")) is None


def test_what_can_be_pasted_is_not_filled_up_with_spaces(storage: str) -> None:
    for columns in ("80", "132"):
        lines = show(storage, shell="", COLUMNS=columns).stdout.splitlines()
        code = [line for line in lines if line.startswith("  ") and "=" in line and line.rstrip().endswith(",")]
        assert code and all(line == line.rstrip() for line in code)
        assert any(line.endswith(f"--study one --storage {storage}") for line in lines if line.startswith("Export:"))
