"""Bytes alive in each phase of one process of several, traced alone, against real steps of 2 and 4 processes (gloo).

The trace has torch's fake process group for the others. The real processes run on this CPU; each says what it keeps
alive, and the one with most counts. What gloo's own threads let go of torch's profiler does not see, so every exchange
is waited for here, and gone from those threads before the step goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers

from autofit.job.tasks import task_named
from autofit.knobs import knob
from autofit.knobs.recipe import Recipe
from autofit.predict.needs import MOST_MICRO_STEPS
from autofit.predict.timeline import StepBuilder
from autofit.predict.trace import Phase
from autofit.predict.trace_request import TraceRequest
from autofit.worker.build import build_trial_model
from autofit.worker.ranks import run_side_by_side
from autofit.worker.tracer.batch import trace_request
from benchmarks.prediction.live_bytes import Case, quiet, request_of, with_summary
from benchmarks.prediction.real_step import real_phase_peaks

PHASES = (Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE)
SETTLING_SECONDS = 0.005
KINDS = ("ddp", "fsdp2", "fsdp2_kept")


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One comparison: a case, by how many processes it is shared, and in which way."""

    case: Case
    parallelism: str
    processes: int = 2

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"{self.case.name} {self.parallelism} of {self.processes}"

    def shared(self, recipe: Recipe) -> Recipe:
        """A recipe of one process as one of several."""
        arguments = knob("parallelism").choice(self.parallelism).training_arguments
        return replace(recipe, training_arguments={**recipe.training_arguments, **arguments}, processes=self.processes)


def all_cases() -> Iterator[Shared]:
    """Architectures, precisions, checkpointing, LoRA, optimizers, accumulation and lengths in turn."""
    cases = [
        *(Case(architecture=name, accumulation=1 + place % 3) for place, name in enumerate(("qwen3", "opt", "phi3"))),
        *(
            Case(architecture=name, precision="bf16", accumulation=1 + place % 2)
            for place, name in enumerate(("vit", "bert"))
        ),
        *(Case(architecture="llama", precision=each, accumulation=2) for each in ("fp32", "bf16", "pure_bf16")),
        Case(architecture="llama", accumulation=1),
        Case(architecture="llama", accumulation=3, checkpointing="every_layer"),
        Case(architecture="llama", checkpointing="every_2nd", precision="bf16"),
        Case(architecture="llama", optimizer="adamw_torch"),
        Case(architecture="llama", method="lora", precision="bf16"),
        Case(architecture="llama", lengths=(64, 50, 40, 33)),
        Case(architecture="gpt2", precision="bf16"),
        Case(architecture="gpt2", accumulation=4, checkpointing="every_layer", lengths=(16,)),
    ]
    for case, parallelism in itertools.product(cases, KINDS):
        yield Shared(case=case, parallelism=parallelism)
    for case, parallelism in itertools.product((cases[0], cases[6], cases[9]), KINDS):
        yield Shared(case=case, parallelism=parallelism, processes=4)


def compare(shared: Shared) -> dict[str, Any]:
    """Predicted bytes of each phase of a steady step, and those of the real process with most."""
    case = shared.case
    request, recipe = request_of(case)
    document = trace_request(
        msgspec.structs.replace(
            request, recipe=shared.shared(request.recipe), micro_steps=min(MOST_MICRO_STEPS, case.accumulation)
        )
    )
    if document.trace is None:
        return {"case": shared.name, "refusal": document.refusal}
    predicted = StepBuilder(document.trace, inputs_ahead=1).steady_step(case.accumulation).phase_peaks()
    real = real_peaks(shared, request, recipe)
    return {
        "case": shared.name,
        "predicted": {phase.name.lower(): predicted[phase] for phase in PHASES},
        "real": {phase.name.lower(): real[phase] for phase in PHASES},
        "errors": {phase.name.lower(): predicted[phase] / real[phase] - 1 for phase in PHASES},
        "trace_seconds": document.seconds,
    }


def real_peaks(shared: Shared, request: TraceRequest, recipe: Recipe) -> dict[Phase, int]:
    """Bytes alive at most in each phase, of the process that has most. Raises RuntimeError where one fails."""
    with tempfile.TemporaryDirectory(prefix="autofit-") as folder:
        files = [Path(folder) / f"{rank}.json" for rank in range(shared.processes)]

        def succeeds(rank: int) -> bool:
            try:
                peaks = _own_peaks(shared, request, recipe)
            except Exception:  # noqa: BLE001 - the parent tells it
                files[rank].write_text(traceback.format_exc())
                return False
            files[rank].write_text(json.dumps({phase.name: size for phase, size in peaks.items()}))
            return True

        codes, stopped = run_side_by_side(shared.processes, succeeds)
        if stopped is not None or any(codes.values()):
            told = "\n".join(file.read_text() for file in files if file.exists())
            raise RuntimeError(f"{shared.name}: exit codes by process {codes}\n{told}")
        peaks = [json.loads(file.read_text()) for file in files]
    return {phase: max(each[phase.name] for each in peaks) for phase in PHASES}


def _own_peaks(shared: Shared, request: TraceRequest, recipe: Recipe) -> dict[Phase, int]:
    torch.set_num_threads(1)
    on_host = replace(recipe, training_arguments={**recipe.training_arguments, "use_cpu": True})
    with quiet(), _exchanges_settle():
        return real_phase_peaks(
            lambda: build_trial_model(msgspec.structs.replace(request, recipe=recipe)),
            shared.shared(on_host),
            task_named(request.workload.task),
            request.micro_batch,
            shared.case.accumulation,
        )


@contextlib.contextmanager
def _exchanges_settle() -> Iterator[None]:
    """FSDP2's exchanges are over, and no thread of gloo's holds their tensors, before the step goes on."""
    names = ("all_gather_single", "reduce_scatter_single", "all_gather_into_tensor", "reduce_scatter_tensor")
    found = {name: getattr(torch.distributed, name) for name in names if hasattr(torch.distributed, name)}

    def settled(exchange: Any) -> Any:
        def run(*args: Any, async_op: bool = False, **kwargs: Any) -> Any:
            work = exchange(*args, async_op=True, **kwargs)
            work.wait()
            time.sleep(SETTLING_SECONDS)
            return work if async_op else None

        return run

    for name, exchange in found.items():
        setattr(torch.distributed, name, settled(exchange))
    try:
        yield
    finally:
        for name, exchange in found.items():
            setattr(torch.distributed, name, exchange)


def compare_all(cases: Iterable[Shared]) -> list[dict[str, Any]]:
    """Compare these cases, and print a line for each. Processes are forked: no thread may run beside."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = []
    for shared in cases:
        with quiet():
            row = compare(shared)
        rows.append(row)
        worst = max((abs(error) for error in row.get("errors", {}).values()), default=float("nan"))
        print(f"{worst:9.4%}  {shared.name}  {row.get('refusal', '')}", flush=True)
    return rows


def run() -> dict[str, Any]:
    """Compare every case, and print the summary, too."""
    rows = compare_all(all_cases())
    return with_summary(rows)


if __name__ == "__main__":
    # Cases in, rows out: for whoever runs threads and so may not fork.
    Path(sys.argv[2]).write_bytes(
        msgspec.json.encode(compare_all(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=list[Shared])))
    )
