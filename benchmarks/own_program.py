"""Programs of one's own: what autofit measures of their own settings, against what they deliver when run as they are.

``python -m benchmarks.own_program [NAME ...]``. Each program of examples/programs is stopped at ``train()``; its own
settings are measured whole in a trial that is forked from it, and in one that starts it anew. It is then run as it is,
timed by a callback that knows nothing of autofit (``timed_program``). All three, turn by turn, three times.

Delivered seconds are the mean of the timed steps: the lengths of the samples differ from step to step, and what is
reported is the mean over the same samples in another order. The overhead of a trial is what it takes beside its steps.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from autofit.device.kinds import find_device, kind_of
from autofit.driver.workers import ProgramWorkers
from autofit.job.situation import Situation
from autofit.knobs.own_program import own_config
from autofit.knobs.recipe import recipe_for
from autofit.own_program import ProgramRequest, record_of
from autofit.study.measurement import Measurement
from autofit.study.trial import RunResult
from autofit.trial.program import ProgramStarts
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import ProcessRunner
from autofit.trial.workshop import Workshop
from benchmarks.record import write_results

FOLDER = Path(__file__).parents[1] / "examples" / "programs"
PROGRAMS = {
    "plain": ["plain.py"],
    "sft": ["sft.py", "plain"],
    "sft packing": ["sft.py", "packing"],
    "sft padding-free": ["sft.py", "padding-free"],
    "sft completion": ["sft.py", "completion"],
    "lora": ["lora.py"],
    "dpo": ["dpo.py"],
    "classifier": ["classifier.py"],
    "seq2seq": ["seq2seq.py"],
    "own module": ["own_module.py"],
    "stream": ["stream.py"],
}
ROUNDS, STEPS, LEFT_OUT = 3, 40, 4
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def main(names: list[str]) -> int:
    """Measure, run, compare, write the results."""
    os.environ.update(ONE_THREAD)
    rows = []
    print(
        f"{'program':18} {'reported':>9} {'delivered':>10} {'differs':>8}  {'plain runs':>10}  overhead forked, fresh"
    )
    for name in names or PROGRAMS:
        row = compare(name)
        rows.append(row)
        print(
            f"{name:18} {row['reported'] * 1e3:7.0f}ms {row['delivered'] * 1e3:8.0f}ms {row['differs']:+8.1%}  "
            f"±{row['spread_of_plain_runs']:9.1%}  {row['forked_overhead']:.1f} s, {row['fresh_overhead']:.1f} s",
            flush=True,
        )
    write_results("own_program", {"rounds": ROUNDS, "steps": STEPS, "programs": rows})
    return 0


def compare(name: str) -> dict[str, Any]:
    """One program's figures, in seconds."""
    command = [sys.executable, str(FOLDER / PROGRAMS[name][0]), *PROGRAMS[name][1:]]
    reported, anew_reported, delivered, forked_overhead, fresh_overhead = [], [], [], [], []
    with tempfile.TemporaryDirectory(prefix="autofit-") as text:
        folder = Path(text)
        os.chdir(folder)
        workers = ProgramWorkers(command, find_device("cpu"), folder, lambda sentence: None)
        try:
            request = ProgramRequest(command=tuple(command), device="cpu")
            record = record_of(workers.facts(), request, find_device("cpu"))
            workers.work_on(record, folder, folder)
            situation = record.situation
            assert situation is not None
            runner = workers.runner(situation)
            launcher = ProgramStarts(command).fresh({})
            shop = Workshop(kind_of("cpu"), 0, folder, lambda sentence: None, launcher=launcher)
            anew = ProcessRunner(shop, situation, runner.model, samples=runner.samples)
            for number in range(ROUNDS):
                forked = run(runner, situation, f"forked-{number}")
                fresh = run(anew, situation, f"fresh-{number}")
                plain = plain_run(command[1:], folder / f"plain-{number}.json")
                measured = measurement_of(forked)
                reported.append(measured.step_seconds)
                delivered.append(statistics.fmean(plain[LEFT_OUT:]))
                forked_overhead.append(overhead(forked))
                fresh_overhead.append(overhead(fresh))
                anew_reported.append(measurement_of(fresh).step_seconds)
        finally:
            workers.close()
            os.chdir(FOLDER)
    middle = statistics.median(delivered)
    return {
        "program": name,
        "reported": statistics.median(reported),
        "reported_anew": statistics.median(anew_reported),
        "delivered": middle,
        "differs": statistics.median(reported) / middle - 1,
        "spread_of_plain_runs": (max(delivered) - min(delivered)) / 2 / middle,
        "spread_of_trials": (max(reported) - min(reported)) / 2 / statistics.median(reported),
        "forked_overhead": statistics.median(forked_overhead),
        "fresh_overhead": statistics.median(fresh_overhead),
    }


def run(runner: ProcessRunner, situation: Situation, name: str) -> RunResult:
    """A whole trial of the program's own settings."""
    assert situation.program is not None
    plan = MeasuringPlan(whole=True, patience_seconds=6.0)
    return runner.run(recipe_for(own_config(situation.program), situation), plan, name)


def plain_run(program: list[str], result: Path) -> list[float]:
    """Seconds of each step of the program as it is."""
    command = [sys.executable, "-m", "benchmarks.timed_program", str(STEPS), str(result), *program]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    found: list[float] = json.loads(result.read_text())
    return found


def measurement_of(result: RunResult) -> Measurement:
    """Measurement of a trial. Raises RuntimeError for one that failed."""
    if result.measurement is None:
        raise RuntimeError(f"{result.outcome.value}: {result.reason} ({result.log_path})")
    return result.measurement


def overhead(result: RunResult) -> float:
    """Seconds of a trial that are not steps."""
    measured = measurement_of(result)
    steps = [*measured.warmup, *(step for window in measured.windows for step in window.steps)]
    return result.wall_seconds - sum(step.total for step in steps)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
