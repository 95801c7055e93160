"""Part 6: what courses and blog posts say of training memory, and what traces of named models give."""

from __future__ import annotations

from typing import Any

from autofit.job.lengths import SampleLengths
from autofit.job.models import resolve_model
from autofit.job.workload import Workload
from autofit.knobs.recipe import Recipe
from autofit.predict.families import traceable
from autofit.predict.timeline import StepBuilder
from autofit.predict.trace import Category, Phase
from autofit.predict.trace_request import TraceRequest
from autofit.runtime.collators import PackRows
from autofit.units import format_bytes
from autofit.worker.tracer.batch import trace_request
from benchmarks.prediction.live_bytes import quiet

MODEL = "meta-llama/Llama-3.2-1B"


def run() -> dict[str, Any]:
    """Compute every claim; print the table that ``docs/prediction.md`` shows."""
    rows = [*_checkpointing(), _optimizer_state(), _attention(), _packing()]
    for row in rows:
        print(f"{row['claim']:62} {row['computed']}")
    return {"model": MODEL, "rows": rows}


def _trace(*, rows: int = 4, length: int = 2048, **settings: Any) -> StepBuilder:
    source = resolve_model(MODEL)
    attention = settings.pop("attention", "sdpa")
    arguments = {"optim": "adamw_torch_fused", "bf16": True, "logging_nan_inf_filter": False, **settings}
    recipe = Recipe(
        training_arguments={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, **arguments},
        model_kwargs={"dtype": "float32", "attn_implementation": attention},
        environment={},
        processes=1,
    )
    workload = Workload(
        model=MODEL,
        model_digest=source.digest,
        task="causal-lm",
        lengths=SampleLengths.fixed(length),
        effective_batch=rows,
    )
    request = TraceRequest(
        model=source,
        workload=workload,
        recipe=traceable(recipe, optimizer=arguments["optim"]),
        micro_batch=(length,) * rows,
        path="",
        target="cuda",
    )
    with quiet():
        document = trace_request(request)
    if document.trace is None:
        raise RuntimeError(document.refusal)
    return StepBuilder(document.trace)


def _kept(builder: StepBuilder) -> int:
    """Activations, alone and with logits and loss, that are alive when the forward pass ends."""
    timeline = builder.steady_step(1)
    end = int((timeline.phases <= Phase.FORWARD).sum()) - 1
    alive: set[int] = set()
    for event in timeline.events[: end + 1].tolist():
        (alive.add if event > 0 else alive.discard)(abs(event) - 1)
    return sum(int(timeline.sizes[block]) for block in alive if timeline.categories[block] == Category.ACTIVATIONS)


def _checkpointing() -> list[dict[str, Any]]:
    off, every = (
        _trace(),
        _trace(activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": False}),
    )
    kept = [_kept(builder) for builder in (off, every)]
    flops = [_flops(builder) for builder in (off, every)]
    peaks = [builder.steady_step(1).peak_bytes for builder in (off, every)]
    return [
        {
            "claim": "checkpointing: activation memory 4 to 5 times smaller",
            "computed": f"kept for backward {_ratio(kept)}; the whole peak {_ratio(peaks)}",
        },
        {
            "claim": "checkpointing: 20 to 30 % more time",
            "computed": f"{flops[1] / flops[0] - 1:.0%} more arithmetic (time is not computed here)",
        },
    ]


def _ratio(pair: list[int]) -> str:
    return f"{format_bytes(pair[0])} and {format_bytes(pair[1])}, {pair[0] / pair[1]:.1f} times"


def _flops(builder: StepBuilder) -> int:
    return sum(builder.trace.operators.flops)


def _optimizer_state() -> dict[str, Any]:
    def state(optimizer: str) -> int:
        builder = _trace(rows=1, length=8, optim=optimizer)
        categories = builder.steady_step(1)
        return int(categories.sizes[categories.categories == Category.OPTIMIZER_STATE].sum())

    wide, narrow = state("adamw_torch_fused"), state("adamw_8bit")
    return {
        "claim": "8-bit optimizer: state of a 1B model from 8 GB to 2 GB",
        "computed": f"{format_bytes(wide)} to {format_bytes(narrow)}: the Trainer keeps embeddings' moments in 32 bits",
    }


def _attention() -> dict[str, Any]:
    def kept(attention: str, length: int) -> int:
        return _kept(_trace(rows=1, length=length, attention=attention))

    growth = {name: kept(name, 4096) / kept(name, 2048) for name in ("eager", "sdpa")}
    return {
        "claim": "flash attention: from quadratic to linear in the length",
        "computed": f"twice the length keeps {growth['eager']:.2f} times as much with eager attention, "
        f"{growth['sdpa']:.2f} times with flash (2048 to 4096 tokens)",
    }


def _packing() -> dict[str, Any]:
    lengths = [120, 180, 200]
    rows = PackRows(512).rows(lengths)
    padding = len(rows) * 512 - sum(lengths)
    padded = len(lengths) * max(lengths) - sum(lengths)
    return {
        "claim": "packing: [120, 180, 200] into one row of 512 with 12 of padding",
        "computed": f"{len(rows)} row, {padding} tokens of padding; padded to the longest it would be {padded}",
    }
