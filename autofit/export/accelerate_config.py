"""``accelerate``: a file for ``accelerate launch --config_file``: on which devices, in how many processes.

Precision stands in it because accelerate hands it to every Trainer whose own arguments name none (accelerate 1.15,
``utils/launch.py``; transformers 5.23, ``training_args.py``). Everything else is the program's to set.
"""

from __future__ import annotations

from typing import Any

from autofit.device.kinds import kind_of
from autofit.export.exported import Exported, all_arguments, as_yaml, header, processes_left_out
from autofit.export.yaml_arguments import not_arguments
from autofit.knobs.parallelism import NAME as PARALLELISM
from autofit.study.result import Result


def serialize(result: Result) -> Exported:
    """The file. Raises UserError where nothing was measured."""
    arguments, device = all_arguments(result), result.situation.device
    processes, is_host = result.record.workload.processes, kind_of(device).is_host
    several = "MULTI_CPU" if is_host else "MULTI_GPU"
    named = ((name, arguments.get(name)) for name in ("bf16", "fp16"))
    # One that no argument says, fp8 for instance, is told by its name.
    precision = next((given if isinstance(given, str) else name for name, given in named if given), "no")
    document: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": several if processes > 1 else "NO",
        "mixed_precision": precision,
        "num_processes": processes,
        "num_machines": 1,
        "machine_rank": 0,
        **({} if is_host or processes > 1 else {"gpu_ids": str(device.index)}),
        "main_training_function": "main",
        "rdzv_backend": "static",
        "same_network": True,
        "enable_cpu_affinity": False,
        "downcast_bf16": False,
        "use_cpu": is_host,
        "debug": False,
    }
    left_out: tuple[str, ...] = ("TrainingArguments, which the program sets (export training-arguments or yaml)",)
    left_out += not_arguments(result)
    program = result.situation.program
    if program is not None and program.settings.get("fsdp") and PARALLELISM in program.own:
        left_out += ("FSDP, for which the program's launcher asks: keep its settings",)
    if program is not None and program.settings.get("deepspeed"):
        left_out += ("DeepSpeed, where the program's launcher asks for it: keep its settings",)
    if is_host:
        left_out += ("the number of threads: accelerate launch takes one where OMP_NUM_THREADS is not set",)
        left_out += processes_left_out(result)  # without GPUs it starts one, unless mpirun is there and configured
    use = "Launch the program that has the measured settings:"
    lines = header(result, left_out, use, "accelerate launch --config_file FILE train.py")
    return Exported(text=as_yaml(document, lines), left_out=left_out)
