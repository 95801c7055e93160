"""The GPU suite in its small form, from end to end on a CPU: every part runs, stops in time and goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autofit.job.request import JobRequest
from autofit.knobs.space import SearchSpace, SpaceRequest
from benchmarks.gpu.__main__ import PARTS, main
from benchmarks.gpu.jobs import FULL_JOBS, Job
from benchmarks.record import read_results
from benchmarks.search.contest import Truth
from benchmarks.search.record_sweep import SWEEPS
from benchmarks.search.sweep import read_sweep

pytestmark = pytest.mark.whole

OF_TRIALS = {
    "the trial server forks workers, the device untouched in the parent": True,
    "running out of memory in the forward or backward pass is told as that": True,
    "running out of memory in the first optimizer step is told as that": True,
    "a smaller card that is emulated refuses what fits on this one": True,
    "tests marked gpu": None,
}


QUICK, LONG = ("correctness", "sweeps", "prediction"), ("search", "peers", "lesson")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


def call(output: Path, parts: tuple[str, ...]) -> list[str]:
    return ["--small", "--device", "cpu", "--output", str(output), "--parts", ",".join(parts)]


@pytest.fixture(scope="module")
def folder(output: Path) -> Path:
    """The results of a first call that has no time and a second one that has enough."""
    assert main([*call(output, QUICK), "--minutes", "0"]) == 1
    assert not list(output.glob("*.json"))
    assert main(call(output, QUICK)) == 0
    return output


@pytest.fixture(scope="module")
def all_parts(folder: Path) -> Path:
    """And of a call for what takes minutes."""
    assert main(call(folder, LONG)) == 0
    return folder


def part(folder: Path, name: str) -> dict[str, Any]:
    return read_results(folder / f"{name}.json")


def test_every_part_is_run_here() -> None:
    assert set(PARTS) == {*QUICK, *LONG}


@pytest.mark.parametrize("name", QUICK)
def test_every_part_is_complete_and_says_where_it_was_measured(folder: Path, name: str) -> None:
    content = part(folder, name)
    assert content["is_complete"] and content["machine"]["processor"] and content["date"]


def test_nothing_that_can_be_checked_here_fails(folder: Path) -> None:
    checks = {check["name"]: check for check in part(folder, "correctness")["checks"]}
    assert not [check for check in checks.values() if check["ok"] is False]
    assert {name: checks[name]["ok"] for name in OF_TRIALS} == OF_TRIALS


def test_a_sweep_can_be_replayed_and_so_can_what_it_says_of_a_smaller_card(folder: Path) -> None:
    (row,) = part(folder, "sweeps")["sweeps"].values()
    assert row["answered"] == row["configurations"] and row["overhead_seconds"] > 0
    paths = list((folder / "sweeps").glob("*.json.gz"))
    assert len(paths) == 2
    for path in paths:
        truth = Truth.of(read_sweep(path))
        assert len(truth.sweep.space) == row["configurations"]
        assert 0 < truth.best < 60


@pytest.mark.slow
def test_a_search_is_held_against_the_sweep_plain_runs_and_a_long_run(all_parts: Path) -> None:
    (search,) = part(all_parts, "search")["searches"].values()
    assert search["regret"] is not None and search["regret"] >= 0
    assert search["delivered"][0]["rank"] == 1 and search["delivered"][0]["delivered_seconds"]
    assert search["long_run"]["problem"] == "" and search["long_run"]["step_seconds"] > 0


def test_predictions_are_compared_with_what_the_sweep_measured(folder: Path) -> None:
    (errors,) = part(folder, "prediction")["sweeps"].values()
    assert errors["configurations"] >= 3 and errors["seconds"]["mean_absolute"] >= 0


@pytest.mark.slow
def test_other_tools_find_a_micro_batch_and_train_beside_autofit(all_parts: Path) -> None:
    tools = part(all_parts, "peers")["tools"]
    for name in ("autofit", "accelerate", "auto_find_batch_size"):
        assert tools[name]["size"] >= 1 and tools[name]["step_seconds"], tools[name]


@pytest.mark.slow
def test_every_claim_of_the_lesson_is_measured_or_said_not_to_be_had(all_parts: Path) -> None:
    rows = part(all_parts, "lesson")["rows"]
    assert len(rows) == 9
    assert all("cannot be had here" in row["measured"] or row.get("ratio", row.get("bytes")) for row in rows)
    assert any("ratio" in row for row in rows)


def test_complete_parts_are_not_run_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(call(folder, QUICK)) == 0
    assert "Everything is complete" in capsys.readouterr().out


def test_the_full_form_is_refused_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--device", "cpu"])
    assert "--small" in capsys.readouterr().err


@pytest.mark.parametrize("job", FULL_JOBS, ids=lambda job: job.name)
def test_every_full_job_is_bounded_so_that_one_call_has_time_for_it(job: Job) -> None:
    card = read_sweep(SWEEPS / "predicted-llama.json.gz").situation
    record = JobRequest(device="cpu", **job.job).record()
    space = SearchSpace(replace(card, workload=record.workload), SpaceRequest.of("standard", **job.wanted))
    assert 4 <= len(space) <= 150
    for name, values in job.only.items():
        assert set(space.choices[name]) <= set(values)
