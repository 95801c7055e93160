"""DeepSpeed's engine in real trials of two processes, on a CPU: what it learns, and what of it is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autofit.knobs.parallelism import PARALLELISM
from autofit.worker.processes import check_sharding

LENGTHS = (60, 30, 20, 10)
CASES = (
    {"parallelism": "ddp"},
    {"parallelism": "zero2"},
    {"parallelism": "zero2", "precision": "bf16", "accumulation": 3, "optimizer": "adamw_8bit"},
    {"parallelism": "zero3"},
    {"parallelism": "zero3", "precision": "bf16", "method": "lora", "checkpointing": "every_layer"},
    {"parallelism": "zero3", "layout": "packed", "lengths": LENGTHS},
    {"parallelism": "zero3_offload", "precision": "bf16", "optimizer": "lion_8bit", "accumulation": 1},
)


@pytest.fixture(scope="module")
def found(deepspeed: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of each case. In a process that may be forked: pytest has threads of its own."""
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.worker.zero_on_cpu", json.dumps(CASES), tmp_path_factory.mktemp("zero")],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{deepspeed}:{root}"},
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, ended.stderr[-4000:]
    results: list[dict[str, Any]] = json.loads(lines[-1].removeprefix("FOUND "))
    return results


@pytest.mark.whole
def test_every_way_trains_and_the_update_is_marked_apart_from_the_micro_steps(found: list[dict[str, Any]]) -> None:
    case: dict[str, Any]
    for case, result in zip(CASES, found, strict=True):
        assert result["outcome"] == "ok", (case, result)
        assert all(len(each) == case.get("accumulation", 2) for each in result["micro_steps"]), case
        assert all(seconds > 0 for seconds in result["updates"]), case
        assert result["bytes"] > 0


@pytest.mark.whole
def test_zero_2_learns_what_ddp_learns(found: list[dict[str, Any]]) -> None:
    ddp, zero2 = (result["losses"] for result in found[:2])
    assert zero2 == pytest.approx(ddp, rel=1e-5)
    assert ddp[0] != pytest.approx(ddp[-1], rel=1e-3), "it learns something"


@pytest.mark.whole
def test_zero_3_with_other_first_weights_learns_as_well(found: list[dict[str, Any]]) -> None:
    # Its layers are drawn one after another on the device, and cut at once.
    assert found[3]["losses"] == pytest.approx(found[0]["losses"], rel=2e-2)


def recipe_of(parallelism: str) -> Any:
    return SimpleNamespace(training_arguments=PARALLELISM.choice(parallelism).training_arguments)


class Engine(torch.nn.Linear):
    """A model that DeepSpeed wrapped says its stage."""

    def __init__(self, stage: int) -> None:
        super().__init__(2, 2)
        self._stage = stage

    def zero_optimization_stage(self) -> int:
        return self._stage


@pytest.mark.parametrize(
    ("model", "parallelism"),
    [(Engine(2), "zero3"), (Engine(3), "zero2"), (Engine(2), "ddp"), (torch.nn.Linear(2, 2), "zero2")],
    ids=["stage 2 for 3", "stage 3 for 2", "unasked", "without"],
)
def test_another_stage_than_the_configurations_is_no_measurement(model: Any, parallelism: str) -> None:
    with pytest.raises(RuntimeError, match="DeepSpeed"):
        check_sharding(model, recipe_of(parallelism))


@pytest.mark.parametrize(("model", "parallelism"), [(Engine(2), "zero2"), (torch.nn.Linear(2, 2), "ddp")])
def test_the_stage_of_the_configuration_is_one(model: Any, parallelism: str) -> None:
    check_sharding(model, recipe_of(parallelism))
