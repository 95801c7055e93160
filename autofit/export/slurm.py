"""``slurm``: a batch script for ``sbatch`` that trains with the measured settings on one node."""

from __future__ import annotations

import math
import shlex

from autofit.device.kinds import kind_of
from autofit.export.exported import Exported, header, recommended
from autofit.job.tasks import task_named
from autofit.report.own_program import changed_command, changes_in_a_line, recommended_changes
from autofit.study.result import Result

SPARE_SHARE, SPARE_SECONDS = 1.2, 600
"""Of the steps' time and beside it: loading, evaluation and saving are not in it."""


def serialize(result: Result) -> Exported:
    """The script. Raises UserError where nothing was measured."""
    best, recommendation = recommended(result)
    workload, device = result.record.workload, result.situation.device
    workers = int(recommendation.training_arguments.get("dataloader_num_workers", 0))
    options = {
        "job-name": "autofit",
        "nodes": 1,
        "ntasks": 1,
        **({} if kind_of(device).is_host else {"gpus-per-node": workload.processes}),
        # The process, its loader's workers, and one to spare.
        "cpus-per-task": workload.processes * (workers + 2),
    }
    if result.run is not None:
        seconds = result.run.steps(workload.effective_batch) * best.measurement.step_seconds
        options["time"] = _clock(SPARE_SHARE * seconds + SPARE_SECONDS)
    command, left_out = _command(result)
    use = (
        f"The partition, the account and the kind of node (measured on {device.name}) are the cluster's: give them to "
        "sbatch. " + ("" if result.run is not None else "So is the time limit, as --samples was not given. ")
    )
    lines = header(result, left_out, use + "Then:", "sbatch FILE")
    exports = [f"export {name}={shlex.quote(value)}" for name, value in recommendation.environment.items()]
    script = [
        "#!/bin/bash",
        *(f"# {line}" for line in lines),
        *(f"#SBATCH --{name}={value}" for name, value in options.items()),
        "",
        "set -euo pipefail",
        *exports,
        command,
    ]
    return Exported(text="\n".join(script) + "\n", left_out=left_out)


def _command(result: Result) -> tuple[str, tuple[str, ...]]:
    """The line that trains, and what it leaves out."""
    program, processes = result.situation.program, result.record.workload.processes
    if program is not None:
        command = changed_command(program, recommended_changes(result))
        # Variables are exported before it.
        words = shlex.split(command) if command is not None else list(program.command)
        while words and "=" in words[0] and not words[0].startswith("-"):
            del words[0]
        left_out = () if command is not None else (f"changes in the program itself: {changes_in_a_line(result)}",)
        return f"srun {shlex.join(words)}", left_out
    launcher = "python" if processes == 1 else f"torchrun --standalone --nproc-per-node {processes}"
    if task_named(result.record.workload.task).labels in ("tokens", "masked"):
        words_of_file = 'train_args.py --text "${TEXT:?a file of text}" --output-dir "${OUTPUT:-output}"'
        return f"# train_args.py is the export training-arguments.\nsrun {launcher} {words_of_file}", ()
    return f"# train.py is a program of yours that imports train_args.py.\nsrun {launcher} train.py", ()


def _clock(seconds: float) -> str:
    """Seconds as days-hours:minutes:00, rounded up to minutes."""
    minutes = math.ceil(seconds / 60)
    days, rest = divmod(minutes, 24 * 60)
    return f"{days}-{rest // 60:02}:{rest % 60:02}:00"
