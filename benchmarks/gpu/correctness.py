"""Part 1: what has to be right on a device before anything on it is measured."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autofit.device import nvml
from autofit.driver.workers import Workers
from autofit.job.request import JobRequest
from autofit.job.situation import Limits, Situation
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial.launcher import TrialServer
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import RETURN_SLACK_BYTES
from autofit.units import MIB, format_bytes
from benchmarks.gpu.bench import Bench, PartResult, attempt
from benchmarks.gpu.jobs import SMALL_MODEL

PLAN = MeasuringPlan(patience_seconds=0.5)
ROOT = Path(__file__).parents[2]
TIME_WAS_UP = "the time was up"


@dataclass(frozen=True, kw_only=True)
class Check:
    """``ok`` is None where it cannot be looked at here; ``detail`` says what was seen."""

    name: str
    ok: bool | None
    detail: str


def run(bench: Bench) -> PartResult:
    """All checks; a failed one does not end the others."""
    checks = [*_of_trials(bench), _gpu_tests(bench)]
    for check in checks:
        word = {True: "ok", False: "FAILED", None: "not here"}[check.ok]
        print(f"{word:9} {check.name}: {check.detail}", flush=True)
    rows = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
    is_complete = all(check.detail != TIME_WAS_UP for check in checks)
    return PartResult(figures={"checks": rows}, is_complete=is_complete)


def _of_trials(bench: Bench) -> Iterator[Check]:
    said: list[str] = []
    job: dict[str, Any] = {"model": "HuggingFaceTB/SmolLM2-135M", "effective_batch": 32, "seq_len": 512}
    if bench.is_small:
        job = {"model": SMALL_MODEL, "effective_batch": 16, "seq_len": 128}
    record = JobRequest(device=bench.device, **job).record()
    scratch = bench.scratch("correctness")
    with Workers(record, scratch, scratch / "traces", said.append, most_seconds=120) as workers:
        situation = workers.probe()
        place = _Place(workers, situation)
        yield Check(
            name="the trial server forks workers, the device untouched in the parent",
            ok=isinstance(workers.workshop().launcher({}), TrialServer),
            detail="; ".join(said) or "no fallback was needed",
        )
        missing = situation.libraries.missing
        yield Check(name="packages", ok=None, detail=", ".join(f"no {each}" for each in missing) or "all are there")
        checks: list[tuple[str, Callable[[_Place], tuple[bool | None, str]]]] = [
            ("memory returns after a trial that went well", _memory_returns),
            ("running out of memory in the forward or backward pass is told as that", _too_many_activations),
            ("running out of memory in the first optimizer step is told as that", _too_much_state),
            ("memory returns after a trial that ran out of it", _memory_returns_after_failure),
            ("a smaller card that is emulated refuses what fits on this one", _emulated_card),
            ("between allocated and reserved the allocator tries again, and it is counted", _retries),
        ]
        for name, look in checks:
            if bench.seconds_left <= 0:
                yield Check(name=name, ok=False, detail=TIME_WAS_UP)
                continue
            seen = attempt(name, functools.partial(_seen, look, place))
            yield Check(name=name, ok=seen.get("ok", False), detail=seen.get("detail") or seen["failed"])


def _seen(look: Callable[[_Place], tuple[bool | None, str]], place: _Place) -> dict[str, Any]:
    ok, detail = look(place)
    return {"ok": ok, "detail": detail}


class _Place:
    """Runs configurations of one job under any limit."""

    def __init__(self, workers: Workers, situation: Situation) -> None:
        self._workers = workers
        self.situation = situation
        space = SearchSpace(situation, SpaceRequest())
        plain = {name: values[0] for name, values in space.choices.items()}
        size = situation.workload.effective_batch
        plain |= {"optimizer": "adamw_torch_fused", "activation_checkpointing": "off", "compile": "off"}
        self.largest = TrainConfig({"micro_batch_size": size, "accumulation_steps": 1, **plain})
        self.smallest = TrainConfig({"micro_batch_size": 1, "accumulation_steps": size, **plain})

    def run(self, config: TrainConfig, limit: int | None = None) -> RunResult:
        limits = self.situation.limits if limit is None else Limits(memory_bytes=limit, headroom=0.0)
        situation = replace(self.situation, limits=limits)
        return self._workers.runner(situation).run(recipe_for(config, situation), PLAN, "check")

    def in_use(self) -> int | None:
        return None if self.situation.device.kind == "cpu" else nvml.used_bytes(self.situation.device.index)


def _memory_returns(place: _Place) -> tuple[bool | None, str]:
    before = place.in_use()
    result = place.run(place.smallest)
    if result.outcome is not Outcome.OK:
        return False, f"{result.outcome.value}: {result.reason}"
    return _returned(place, before)


def _memory_returns_after_failure(place: _Place) -> tuple[bool | None, str]:
    before = place.in_use()
    place.run(place.largest, _needed(place, place.smallest) + 8 * MIB)
    return _returned(place, before)


def _returned(place: _Place, before: int | None) -> tuple[bool | None, str]:
    if before is None:
        return None, "only a card's memory is looked at"
    time.sleep(0.5)
    after = place.in_use()
    assert after is not None
    return abs(
        after - before
    ) <= RETURN_SLACK_BYTES, f"{format_bytes(before)} in use before, {format_bytes(after)} after"


def _too_many_activations(place: _Place) -> tuple[bool | None, str]:
    # What the smallest needs has its weights, gradients and state in it, but no room for a larger micro-batch.
    return _is_oom(place.run(place.largest, _needed(place, place.smallest) + 8 * MIB))


def _too_much_state(place: _Place) -> tuple[bool | None, str]:
    """Room for the weights and gradients of the smallest micro-batch, and not for the optimizer's two moments."""
    state = 8 * place.situation.model.num_parameters
    return _is_oom(place.run(place.smallest, _needed(place, place.smallest) - state // 2))


def _emulated_card(place: _Place) -> tuple[bool | None, str]:
    needed = _needed(place, place.largest)
    refused, fits = place.run(place.largest, round(0.7 * needed)), place.run(place.largest, round(1.3 * needed))
    is_right = refused.outcome is Outcome.OOM and fits.outcome is Outcome.OK
    return is_right, f"needs {format_bytes(needed)}: {refused.outcome.value} with 70 %, {fits.outcome.value} with 130 %"


def _retries(place: _Place) -> tuple[bool | None, str]:
    result = place.run(place.largest)
    assert result.measurement is not None, result.reason
    memory = result.measurement.memory
    if memory.alloc_retries is None or memory.peak_reserved == memory.peak_allocated:
        return None, "there is no caching allocator here"
    between = (memory.peak_allocated + memory.peak_reserved) // 2 + memory.context
    tight = place.run(place.largest, between)
    if tight.measurement is None:
        return tight.outcome is Outcome.OOM, f"{tight.outcome.value} at {format_bytes(between)}"
    retries = tight.measurement.memory.alloc_retries or 0
    return retries > 0, f"{retries} retries at {format_bytes(between)}"


def _needed(place: _Place, config: TrainConfig) -> int:
    result = place.run(config)
    assert result.measurement is not None, result.reason
    return result.measurement.memory.needed


def _is_oom(result: RunResult) -> tuple[bool, str]:
    return result.outcome is Outcome.OOM, f"{result.outcome.value}: {result.reason}"


def _gpu_tests(bench: Bench) -> Check:
    name = "tests marked gpu"
    if not bench.on_gpu:
        return Check(name=name, ok=None, detail="no GPU is here")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    try:
        finished = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=max(30.0, bench.seconds_left)
        )
    except subprocess.TimeoutExpired:
        return Check(name=name, ok=False, detail=TIME_WAS_UP)
    (bench.folder / "gpu-tests.txt").write_text(finished.stdout + finished.stderr, encoding="utf-8")
    lines = finished.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    return Check(name=name, ok=finished.returncode == 0, detail="; ".join([*failed, *lines[-1:]]))
