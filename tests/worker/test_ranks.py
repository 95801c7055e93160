"""Several processes of one training: whichever fails, and however, none is left waiting, and the cause is told."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SECONDS = 30.0
"""None may take longer to end, with imports and the machine busy left out: those are counted apart."""


def run(folder: Path, fault: str) -> subprocess.CompletedProcess[str]:
    job = folder / "trial-0001.json"
    job.write_text("{}")
    return subprocess.run(
        [sys.executable, "-m", "tests.worker.training_in_ranks", str(job), fault],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )


def nobody_is_left(folder: Path) -> bool:
    return not any(str(folder) in " ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"]))


@pytest.mark.parametrize("fault", ["forward", "backward", "optimizer", "all_gather"])
def test_out_of_memory_of_one_process_is_the_trials(tmp_path: Path, fault: str) -> None:
    ended = run(tmp_path, fault)
    outcome, reason, seconds = ended.stdout.strip().rsplit("\n", 1)[-1].split("|")
    assert outcome == "oom", (reason, ended.stderr[-2000:])
    assert float(seconds) < SECONDS
    assert nobody_is_left(tmp_path)


def test_an_error_of_one_process_is_the_trials_and_not_the_others_lost_connection(tmp_path: Path) -> None:
    outcome, reason, _ = run(tmp_path, "broken").stdout.strip().rsplit("\n", 1)[-1].split("|")
    assert outcome == "error" and "a fault in the training" in reason


def test_a_killed_process_ends_the_trial_by_its_signal(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = run(tmp_path, "killed")
    assert ended.returncode == -signal.SIGKILL and "process 1 was ended by signal 9" in ended.stderr
    assert time.monotonic() - began < 2 * SECONDS
    assert nobody_is_left(tmp_path)


def test_a_process_that_is_stopped_is_named(tmp_path: Path) -> None:
    outcome, reason, seconds = run(tmp_path, "stopped").stdout.strip().rsplit("\n", 1)[-1].split("|")
    assert outcome == "timeout" and reason.startswith("process 1 of 2 was stopped")
    assert float(seconds) < SECONDS
    assert nobody_is_left(tmp_path)


@pytest.mark.parametrize("fault", ["none", "paused", "port"])
def test_processes_that_all_end_give_the_first_ones_result(tmp_path: Path, fault: str) -> None:
    outcome, reason, _ = run(tmp_path, fault).stdout.strip().rsplit("\n", 1)[-1].split("|")
    assert (outcome, reason) == ("slower", "it trained to its end")
