"""The parent's side against workers that misbehave in every way a worker can."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from autofit.device import processor
from autofit.device.host import reap
from autofit.device.kinds import kind_of
from autofit.device.processor import Processor
from autofit.job.models import resolve_model
from autofit.knobs.recipe import recipe_for
from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial import launcher as launcher_module
from autofit.trial import runner as runner_module
from autofit.trial.launcher import FreshInterpreters, worker_environment
from autofit.trial.protocol import JobFiles, MeasuringPlan
from autofit.trial.runner import ProcessRunner, expected_state_bytes
from autofit.trial.workshop import Workshop, remove_scratch
from tests.doubles import make_config, make_situation
from tests.trial.test_launcher import gone

SCRIPT = Path(__file__).with_name("scripted_worker.py")


def scripted(word: str, folder: Path, *, seconds: float = 60.0, **situation: object) -> ProcessRunner:
    launcher = FreshInterpreters(worker_environment(""), (sys.executable, str(SCRIPT), word))
    workshop = Workshop(kind_of("cpu"), 0, folder, lambda sentence: None, launcher=launcher)
    source = resolve_model("EleutherAI/pythia-70m")
    return ProcessRunner(workshop, make_situation(**situation), source, most_seconds=seconds)  # type: ignore[arg-type]


def run(word: str, folder: Path, *, best: float | None = None, seconds: float = 60.0) -> RunResult:
    runner = scripted(word, folder, seconds=seconds)
    try:
        recipe = recipe_for(make_config(), make_situation())
        return runner.run(recipe, MeasuringPlan(slower_than_seconds=best), "one")
    finally:
        runner.close()


@pytest.mark.parametrize(
    ("word", "outcome", "words"),
    [
        ("succeed", Outcome.OK, ""),
        ("noisy", Outcome.OK, ""),
        ("raise", Outcome.CRASHED, "exit code 1: ValueError: the scripted failure"),
        ("exit-3", Outcome.CRASHED, "exit code 3: words before the end"),
        ("kill", Outcome.CRASHED, "SIGKILL from outside"),
        ("segfault", Outcome.CRASHED, "segmentation fault"),
        ("garbage", Outcome.CRASHED, "cannot be read"),
        ("half", Outcome.CRASHED, "cannot be read"),
        ("other-format", Outcome.CRASHED, "cannot be read"),
        ("oom-text", Outcome.OOM, "asking for 3.00 GiB more"),
    ],
)
def test_whatever_a_worker_does_becomes_a_row_with_its_reason(
    word: str, outcome: Outcome, words: str, tmp_path: Path
) -> None:
    result = run(word, tmp_path)
    assert result.outcome is outcome and words in result.reason
    assert (result.measurement is not None) == (outcome is Outcome.OK)
    assert result.log_path is not None and Path(result.log_path).exists()
    assert result.wall_seconds > 0


def test_a_worker_that_hangs_is_ended_at_the_limit(tmp_path: Path) -> None:
    began = time.monotonic()
    result = run("hang", tmp_path, seconds=0.5)
    assert result.outcome is Outcome.TIMEOUT and "phase 'start'" in result.reason
    assert time.monotonic() - began < 60


def test_a_first_step_far_beyond_the_best_is_ended_as_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processor, "warm_up_grace_seconds", 0.1)
    result = run("stuck-first-step", tmp_path, best=0.05)
    assert result.outcome is Outcome.SLOWER and "first step" in result.reason


def test_without_a_best_nothing_is_called_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processor, "warm_up_grace_seconds", 0.1)
    assert run("stuck-first-step", tmp_path, seconds=1.0).outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(("word", "seconds"), [("helper", 60.0), ("hang-with-helper", 3.0)])
def test_helpers_of_a_worker_die_with_it(word: str, seconds: float, tmp_path: Path) -> None:
    run(word, tmp_path, seconds=seconds)
    assert gone(int((tmp_path / "one.helper").read_text()))


def test_an_old_result_is_never_taken_for_a_new_one(tmp_path: Path) -> None:
    assert run("succeed", tmp_path).outcome is Outcome.OK
    assert run("exit-3", tmp_path).outcome is Outcome.CRASHED


def test_a_kill_that_the_kernel_counted_is_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter((4, 5))
    monkeypatch.setattr(runner_module, "out_of_memory_kills", lambda: next(counts))
    result = run("kill", tmp_path)
    assert result.outcome is Outcome.OOM and "out-of-memory killer" in result.reason


def test_ctrl_c_ends_the_worker_and_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = scripted("hang-with-helper", tmp_path)
    helper = tmp_path / "one.helper"

    def interrupt(*arguments: object) -> None:
        if helper.exists() and helper.read_text():
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_too_slow", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.run(recipe_for(make_config(), make_situation()), MeasuringPlan(), "one")
    runner.close()
    assert gone(int(helper.read_text()))


def test_the_cap_is_the_limit_less_headroom_and_less_what_others_use_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = 2**30
    recipe = recipe_for(make_config(), make_situation())
    monkeypatch.setattr(processor, "host_memory_bytes", lambda: 16 * gib)
    for in_use, limit, own in (
        (2 * gib, 16 * gib, int(0.95 * 16 * gib) - 2 * gib),
        (2 * gib, 4 * gib, int(0.95 * 4 * gib)),
        (13 * gib, 4 * gib, int(0.95 * 16 * gib) - 13 * gib),
    ):
        monkeypatch.setattr(processor, "host_memory_in_use_bytes", lambda in_use=in_use: in_use)
        runner = scripted("succeed", tmp_path, limit_bytes=limit)
        assert runner.job_for(recipe, MeasuringPlan()).memory.own_bytes == own
        assert runner.job_for(recipe, MeasuringPlan(spare_share=0.25)).memory.own_bytes == int(own * 0.75)


def test_paged_state_under_an_emulated_limit_is_kept_out_of_the_cap_and_never_called_out_of_memory(
    tmp_path: Path,
) -> None:
    situation = make_situation(kind="cuda", limit_bytes=2**30, missing={})
    recipe = recipe_for(make_config(optimizer="paged_adamw_8bit"), situation)
    runner = scripted("oom-text", tmp_path, kind="cuda", limit_bytes=2**30, missing={})
    assert runner.job_for(recipe, MeasuringPlan()).expected_paged_bytes == expected_state_bytes(situation, 2.03125)
    result = runner.run(recipe, MeasuringPlan(), "one")
    assert result.outcome is Outcome.UNSUPPORTED and "cannot be emulated" in result.reason


def test_paged_state_that_deepspeed_cuts_is_kept_out_of_the_cap_in_parts(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kind": "cuda", "limit_bytes": 2**30, "missing": {}, "processes": 4}
    situation, runner = make_situation(**settings), scripted("succeed", tmp_path, **settings)

    def paged(parallelism: str) -> int:
        config = make_config(optimizer="paged_adamw_8bit", parallelism=parallelism, accumulation_steps=1)
        return runner.job_for(recipe_for(config, situation), MeasuringPlan()).expected_paged_bytes

    assert paged("zero2") == paged("ddp") // 4


def test_the_state_of_an_8_bit_adamw_counts_embeddings_at_32_bits() -> None:
    # 800,000 parameters at 2 + 8/256 bytes, 200,000 of embeddings at 8.
    assert expected_state_bytes(make_situation(), 2.03125) == round(800_000 * 2.03125 + 200_000 * 8)
    adapters = make_situation(method="lora", missing={})
    assert expected_state_bytes(adapters, 8) == adapters.model.trainable_parameters * 8


def test_no_worker_is_left_after_the_tests() -> None:
    assert not [child for child in psutil.Process().children(recursive=True) if "scripted" in " ".join(child.cmdline())]


def test_a_worker_that_was_killed_from_outside_is_run_once_more_before_it_is_blamed(tmp_path: Path) -> None:
    result = run("kill-once", tmp_path)
    assert result.outcome is Outcome.OK and (tmp_path / "one.killed").exists()
    assert run("kill", tmp_path).outcome is Outcome.CRASHED


def test_a_worker_that_prints_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "MOST_LOG_BYTES", 100_000)
    result = run("flood", tmp_path)
    assert result.outcome is Outcome.ERROR and "printed more than" in result.reason


def test_the_end_of_the_budget_ends_a_worker_and_does_not_blame_it(tmp_path: Path) -> None:
    launcher = FreshInterpreters(worker_environment(""), (sys.executable, str(SCRIPT), "hang"))
    deadline = time.monotonic() + 0.5
    workshop = Workshop(kind_of("cpu"), 0, tmp_path, lambda sentence: None, launcher=launcher, deadline=deadline)
    runner = ProcessRunner(workshop, make_situation(), resolve_model("EleutherAI/pythia-70m"))
    result = runner.run(recipe_for(make_config(), make_situation()), MeasuringPlan(), "one")
    runner.close()
    assert result.outcome is Outcome.INTERRUPTED and "budget" in result.reason
    assert time.monotonic() - deadline < 30


def test_temporary_files_of_a_killed_worker_are_removed(tmp_path: Path) -> None:
    run("kill-with-scratch", tmp_path)
    assert not JobFiles(tmp_path / "one.json").scratch.exists()
    # Those of a search that was killed go when the next one begins.
    (tmp_path / "two.json").touch()
    JobFiles(tmp_path / "two.json").scratch.mkdir()
    remove_scratch(tmp_path)
    assert not JobFiles(tmp_path / "two.json").scratch.exists()


def test_sockets_can_be_made_among_a_jobs_temporary_files_however_long_its_own_path_is(tmp_path: Path) -> None:
    scratch = JobFiles(tmp_path / ("x" * 100) / "trial-0001.json").scratch
    scratch.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        # As long as multiprocessing's own: pymp-xxxxxxxx/listener-xxxxxxxx.
        (scratch / "pymp-01234567").mkdir()
        listener.bind(str(scratch / "pymp-01234567" / "listener-01234567"))
    shutil.rmtree(scratch)


@pytest.mark.parametrize(("resident", "outcome"), [(96, Outcome.OOM), (50, Outcome.CRASHED)])
def test_a_crash_with_memory_nearly_used_up_is_out_of_memory(
    resident: int, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peak is that of the dead process, however long before its end it was looked at."""
    early = {"VmHWM": 40, "VmData": 30, "RssAnon": 30, "RssFile": 10, "RssShmem": 0}
    monkeypatch.setattr(runner_module, "limited_segment_of", lambda process: (early, 100))
    monkeypatch.setattr(runner_module, "is_near_limit", lambda peak, limit, cap: limit - peak <= 15)
    monkeypatch.setattr(launcher_module, "reap", lambda child: (reap(child)[0], resident))
    monkeypatch.setattr(launcher_module, "own_peak_resident", lambda: 0)
    assert run("slow-segfault", tmp_path).outcome is outcome


def test_a_worker_that_ended_says_how_much_memory_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = FreshInterpreters(worker_environment(""), (sys.executable, "-c", "bytearray(2**30)"))
    monkeypatch.setattr(launcher_module, "own_peak_resident", lambda: 2**29)
    launcher.start(tmp_path / "one.json")
    assert launcher.wait(60) == 0
    assert launcher.peak_resident is not None and launcher.peak_resident > 2**30
    # What is less than this process had may be its own, from before the worker's program was started.
    monkeypatch.setattr(launcher_module, "own_peak_resident", lambda: 2**33)
    launcher.start(tmp_path / "one.json")
    assert launcher.wait(60) == 0 and launcher.peak_resident is None
