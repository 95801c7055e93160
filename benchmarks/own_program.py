"""Programs of one's own: what autofit measures of their own settings, against what they deliver when run as they are.

``python -m benchmarks.own_program [NAME ...]``. Each program of examples/programs is stopped at ``train()``; its own
settings are measured whole in a trial that is forked from it, and in one that starts it anew. It is then run as it is,
timed by a callback that knows nothing of autofit (``timed_program``). All three, turn by turn, three times, in the
opposite order in every second round. What differs is compared within each round: the median, ± half the range.

Delivered seconds are the mean of the timed steps: the lengths of the samples differ from step to step, and what is
reported is the mean over the same samples in another order. The overhead of a trial is what it takes beside its steps.
"""

from __future__ import annotations

import datetime
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
from benchmarks.record import RESULTS, read_results, write_results

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
    """Measure, run, compare, write the results; with names given, earlier ones of other programs stay."""
    os.environ.update(ONE_THREAD)
    rows: list[dict[str, Any]] = []
    earlier = read_results(RESULTS / "own_program.json")["programs"] if names else []
    print(
        f"{'program':18} {'reported':>9} {'delivered':>10} {'differs':>16} {'started anew':>14}  {'plain runs':>10}  "
        "overhead forked, fresh"
    )
    try:
        for name in names or PROGRAMS:
            rows.append(compare(name))
            print(in_a_line(rows[-1]), flush=True)
    finally:
        kept = [row for row in earlier if row["program"] not in {new["program"] for new in rows}]
        write_results("own_program", {"rounds": ROUNDS, "steps": STEPS, "programs": [*kept, *rows]})
    return 0


def in_a_line(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"{row['program']:18} {row['reported'] * 1e3:7.0f}ms {row['delivered'] * 1e3:8.0f}ms "
        f"{in_words(row['differs_by']):>16} {in_words(row['differs_anew_by']):>14}  "
        f"±{row['spread_of_plain_runs']:9.1%}  {row['forked_overhead']:.1f} s, {row['fresh_overhead']:.1f} s"
    )


def in_words(differences: list[float]) -> str:
    """Median and half the range."""
    return f"{statistics.median(differences):+.1%} ±{(max(differences) - min(differences)) / 2:.1%}"


def compare(name: str) -> dict[str, Any]:
    """One program's figures, in seconds."""
    command = [sys.executable, str(FOLDER / PROGRAMS[name][0]), *PROGRAMS[name][1:]]
    forked: list[RunResult] = []
    fresh: list[RunResult] = []
    plain: list[float] = []
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
                name_of_file = folder / f"plain-{number}.json"
                turns = [
                    lambda number=number: forked.append(run(runner, situation, f"forked-{number}")),
                    lambda path=name_of_file: plain.append(statistics.fmean(plain_run(command[1:], path)[LEFT_OUT:])),
                    lambda number=number: fresh.append(run(anew, situation, f"fresh-{number}")),
                ]
                for turn in turns if number % 2 == 0 else turns[::-1]:
                    turn()
        finally:
            workers.close()
            os.chdir(FOLDER)
    differences = differing(forked, plain)
    return {
        "program": name,
        "date": datetime.date.today().isoformat(),
        "reported": statistics.median(measurement_of(each).step_seconds for each in forked),
        "reported_anew": statistics.median(measurement_of(each).step_seconds for each in fresh),
        "delivered": statistics.median(plain),
        "differs": statistics.median(differences),
        "differs_by": differences,
        "differs_anew_by": differing(fresh, plain),
        "spread_of_plain_runs": (max(plain) - min(plain)) / 2 / statistics.median(plain),
        "forked_overhead": statistics.median(map(overhead, forked)),
        "fresh_overhead": statistics.median(map(overhead, fresh)),
    }


def differing(trials: list[RunResult], plain: list[float]) -> list[float]:
    """Share by which the trial of each round says more than its plain run delivered."""
    return [measurement_of(trial).step_seconds / seconds - 1 for trial, seconds in zip(trials, plain, strict=True)]


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
