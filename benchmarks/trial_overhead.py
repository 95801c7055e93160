"""Cost of a trial beyond measuring, the error of composing a short step, and the parent's size.

    python -m benchmarks.trial_overhead

1. Overhead: from the parent's request to the result, less warm-up and timed steps, through the trial
   server and through a fresh interpreter, turn by turn in the same run.
2. Composition: the optimizer step composed from a shortened accumulation against the whole one, for
   several configurations: in separate trials, turn by turn, and within the same steps (the first, one
   interior and the last micro-step of a whole step against that step), where the machine's drift cancels.
3. The parent's peak resident memory over a whole search, read by the kernel.

Run it alone: anything else on the machine is in the figures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from autofit.device.kinds import find_device, kind_of
from autofit.job.lengths import SampleLengths
from autofit.job.models import ModelSource, resolve_model
from autofit.job.situation import Limits, Situation
from autofit.job.workload import Workload
from autofit.knobs import KNOBS
from autofit.knobs.recipe import recipe_for
from autofit.knobs.train_config import TrainConfig
from autofit.study.measurement import StepSeconds
from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial.launcher import FreshInterpreters, worker_environment
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import ProcessRunner
from autofit.trial.workshop import Workshop, probe
from benchmarks.record import measuring_seconds, write_results

MODEL = Path(__file__).parents[1] / "examples" / "small-llama"

PLAIN = {row.name: row.reference for row in KNOBS}
COMPOSED: tuple[tuple[int, dict[str, str]], ...] = (
    (1, {}),
    (2, {}),
    (4, {}),
    (2, {"activation_checkpointing": "every_layer"}),
    (2, {"attention": "eager"}),
    (2, {"optimizer": "adamw_8bit"}),
    (1, {"optimizer": "adamw_torch"}),
)


def main() -> None:
    """Run the parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8, help="trials of each kind in part 1")
    parser.add_argument("--composition-rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    console = Console(width=100, highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        source = resolve_model(str(MODEL))
        served = Workshop(kind_of("cpu"), 0, Path(folder) / "served", print)
        launcher = FreshInterpreters(worker_environment(""))
        fresh = Workshop(kind_of("cpu"), 0, Path(folder) / "fresh", print, launcher=launcher)
        try:
            situation = _situation(served, source)
            runners = {
                "trial server": ProcessRunner(served, situation, source),
                "fresh interpreter": ProcessRunner(fresh, situation, source),
            }
            overhead = _overhead(runners, situation, options.rounds, console)
            composition = _composition(runners["trial server"], situation, options.composition_rounds, console)
        finally:
            served.close()
            fresh.close()
        parent = _parent_memory(Path(folder), console)
    write_results(
        "trial_overhead", {"overhead": overhead, "composition": composition, "parent": parent}, options.output
    )


def _situation(workshop: Workshop, source: ModelSource) -> Situation:
    device = find_device("cpu")
    workload = Workload(
        model="small-llama",
        model_digest=source.digest,
        task="causal-lm",
        lengths=SampleLengths.fixed(128),
        effective_batch=16,
    )
    limits = Limits(memory_bytes=device.memory_bytes)
    return probe(workshop, source, workload, device, limits, trust_remote_code=False)


def _config(micro_batch_size: int, changes: dict[str, str]) -> TrainConfig:
    return TrainConfig(
        {"micro_batch_size": micro_batch_size, "accumulation_steps": 16 // micro_batch_size, **PLAIN, **changes}
    )


def _run(runner: ProcessRunner, situation: Situation, config: TrainConfig, plan: MeasuringPlan) -> RunResult:
    result = runner.run(recipe_for(config, situation), plan, "benchmark")
    if result.outcome is not Outcome.OK:
        raise SystemExit(f"{config}: {result.outcome.value}: {result.reason}")
    return result


def _overhead(runners: dict[str, ProcessRunner], situation: Situation, rounds: int, console: Console) -> dict[str, Any]:
    plan = MeasuringPlan(patience_seconds=0.5)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            result = _run(runner, situation, _config(16, {}), plan)
            measurement = result.measurement
            assert measurement is not None
            seconds[name].append(result.wall_seconds - measuring_seconds(measurement))
    table = Table("worker", "median", "least", "most", box=box.SIMPLE_HEAD, title="Seconds of a trial not measuring")
    for name, samples in seconds.items():
        table.add_row(name, *(f"{value:.2f}" for value in (statistics.median(samples), min(samples), max(samples))))
    console.print(table)
    return {
        "model": "examples/small-llama, 16 x 128 tokens, effective batch 16",
        "seconds": seconds,
        "median": {name: statistics.median(samples) for name, samples in seconds.items()},
    }


def _composition(runner: ProcessRunner, situation: Situation, rounds: int, console: Console) -> dict[str, Any]:
    table = Table(
        *("micro x acc", "settings", "composed", "whole", "difference", "spread of whole", "within steps"),
        box=box.SIMPLE_HEAD,
        title="Seconds of an optimizer step, composed from three micro-steps and run whole",
    )
    rows: list[dict[str, Any]] = []
    for size, changes in COMPOSED:
        config = _config(size, changes)
        times: dict[bool, list[float]] = {False: [], True: []}
        within: list[float] = []
        for _ in range(rounds):
            for whole in (False, True):
                plan = MeasuringPlan(whole=whole, patience_seconds=3.0)
                measurement = _run(runner, situation, config, plan).measurement
                assert measurement is not None
                times[whole].append(measurement.step_seconds)
                if whole:
                    steps = [step for window in measurement.windows for step in window.steps]
                    within.extend(_shortened(step).composed(len(step.micro_steps)) / step.total - 1 for step in steps)
        composed, whole_step = statistics.median(times[False]), statistics.median(times[True])
        spread = max(times[True]) / min(times[True]) - 1
        rows.append(
            {
                "config": dict(config),
                "composed_seconds": times[False],
                "whole_seconds": times[True],
                "difference": composed / whole_step - 1,
                "difference_within_steps": statistics.median(within),
                "num_steps": len(within),
                "spread_of_whole": spread,
            }
        )
        table.add_row(
            f"{size} x {config.accumulation_steps}",
            ", ".join(changes.values()) or "plain",
            f"{composed:.4f}",
            f"{whole_step:.4f}",
            f"{composed / whole_step - 1:+.1%}",
            f"{spread:.1%}",
            f"{statistics.median(within):+.1%}",
        )
    console.print(table)
    median = statistics.median(abs(row["difference"]) for row in rows)
    within_median = statistics.median(abs(row["difference_within_steps"]) for row in rows)
    console.print(f"median difference, without sign: {median:.1%} between trials, {within_median:.1%} within steps")
    return {"rows": rows, "median_difference": median, "median_difference_within_steps": within_median}


def _shortened(step: StepSeconds) -> StepSeconds:
    """The part of a whole step that a trial runs: three of its micro-steps and their share of the fetch."""
    count = len(step.micro_steps)
    kept = (step.micro_steps[0], step.micro_steps[count // 2], step.micro_steps[-1])
    return StepSeconds(loop=step.loop, fetch=step.fetch * 3 / count, micro_steps=kept, update=step.update)


def _parent_memory(folder: Path, console: Console) -> dict[str, Any]:
    """The kernel's own peak of the search process, read while it runs (Linux)."""
    words = [str(MODEL), "--effective-batch", "16", "--seq-len", "128", "--max-trials", "6", "--numerics", "exact"]
    environment = {**os.environ, "AUTOFIT_HOME": str(folder / "home")}
    process = subprocess.Popen(
        [sys.executable, "-m", "autofit", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        except OSError:
            break
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                peak = max(peak, int(line.split()[1]) * 1024)
        time.sleep(0.05)
    if process.wait() != 0:
        raise SystemExit(f"the search ended with exit code {process.returncode}")
    console.print(f"The parent's peak resident memory over a search: {peak / 1e6:.0f} MB")
    return {"peak_resident_bytes": peak}


if __name__ == "__main__":
    main()
