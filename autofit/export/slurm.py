"""``slurm``: a batch script for ``sbatch`` that trains with the measured settings, on one node or on several."""

from __future__ import annotations

import math
import re
import shlex

from autofit.device.device import Device
from autofit.device.kinds import kind_of
from autofit.export.exported import Exported, all_arguments, header, recommended
from autofit.job.tasks import task_named
from autofit.report.own_program import changed_command, changes_in_a_line, recommended_changes
from autofit.study.result import Result

_SRUN = 'srun --cpus-per-task="$SLURM_CPUS_PER_TASK"'
"""Since Slurm 22.05 a step does not take over the number that its job asked for."""
_HEAD = 'read -r HEAD < <(scontrol show hostnames "$SLURM_JOB_NODELIST")'
"""The node on which the processes of all meet. No pipe: pipefail would end the script where the list is cut short."""
SPARE_SHARE, SPARE_SECONDS = 1.2, 600
"""Of the steps' time and beside it: loading, evaluation and saving are not in it."""


def serialize(result: Result) -> Exported:
    """The script. Raises UserError where nothing was measured."""
    best, recommendation = recommended(result)
    workload, device = result.record.workload, result.situation.device
    workers = int(all_arguments(result).get("dataloader_num_workers") or 0)
    options = {
        "job-name": "autofit",
        "nodes": result.nodes,
        "ntasks": result.nodes,
        **({"ntasks-per-node": 1} if result.nodes > 1 else {}),
        **({} if kind_of(device).is_host else {"gpus-per-node": workload.processes}),
        "cpus-per-task": workload.processes * max(workers + 2, _cores(device)),
    }
    if result.run is not None:
        seconds = result.run.steps(workload.effective_batch) * best.measurement.step_seconds
        options["time"] = _clock(SPARE_SHARE * seconds + SPARE_SECONDS)
    command, left_out = _command(result)
    use = (
        f"The partition, the account and the kind of node (measured on {device.name}) are the cluster's: give them to "
        "sbatch. "
    )
    if result.run is None:
        use += "So is the time limit: a search with --samples and --export writes it. "
    lines = header(result, left_out, use + "Then:", "sbatch FILE")
    exports = [f"export {name}={shlex.quote(value)}" for name, value in recommendation.environment.items()]
    script = [
        "#!/bin/bash",
        *(f"# {line}" for line in lines),
        *(f"#SBATCH --{name}={value}" for name, value in options.items()),
        "",
        "set -euo pipefail",
        *exports,
        *([_HEAD] if result.nodes > 1 else []),
        command,
    ]
    return Exported(text="\n".join(script) + "\n", left_out=left_out)


def _command(result: Result) -> tuple[str, tuple[str, ...]]:
    """The line that trains, and what it leaves out."""
    program = result.situation.program
    if program is not None:
        changes = recommended_changes(result)
        command = changed_command(program, changes)
        # Variables are exported before it.
        words = shlex.split(command) if command is not None else list(program.command)
        while words and "=" in words[0] and not words[0].startswith("-"):
            del words[0]
        is_complete = command is not None or not changes
        left_out = () if is_complete else (f"changes in the program itself: {changes_in_a_line(result)}",)
        return f"{_SRUN} {shlex.join(words)}", left_out
    launcher = result.launcher(head="$HEAD")
    if task_named(result.record.workload.task).labels in ("tokens", "masked"):
        words_of_file = 'train_args.py --text "${TEXT:?a file of text}" --output-dir "${OUTPUT:-output}"'
        rank = "" if result.rank is None else f" --rank {result.rank}"
        nodes = "" if result.nodes == 1 else f" --nodes {result.nodes}"
        made = f"autofit export training-arguments=train_args.py --study {result.study}{rank}{nodes}"
        return (
            f"# TEXT is your data, and train_args.py what this writes: {made}\n{_SRUN} {launcher} {words_of_file}",
            (),
        )
    return f"# train.py is a program of yours that imports train_args.py.\n{_SRUN} {launcher} train.py", ()


def _cores(device: Device) -> int:
    """Cores of a processor that was measured on, as its name has them; 0 for a GPU.

    A process beside a GPU gets one for itself, one for each of its loader's workers, and one to spare.
    """
    found = re.search(r"\((\d+) cores?\)", device.name) if kind_of(device).is_host else None
    return int(found.group(1)) if found else 0


def _clock(seconds: float) -> str:
    """Seconds as days-hours:minutes:00, rounded up to minutes."""
    minutes = math.ceil(seconds / 60)
    days, rest = divmod(minutes, 24 * 60)
    return f"{days}-{rest // 60:02}:{rest % 60:02}:00"
