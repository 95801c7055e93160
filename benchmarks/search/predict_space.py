"""Predict every configuration of a large space, on an H100 that need not be here.

``python -m benchmarks.search.predict_space [NAME ...]`` writes the files that ``synthetic`` makes spaces of.
"""

from __future__ import annotations

import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from autofit.device.gpus import find_gpu
from autofit.device.kinds import kind_of
from autofit.job.request import JobRequest
from autofit.job.situation import Limits
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import TrainConfig
from autofit.predict.micro_batches import CannotPredictError
from autofit.predict.needs import Needs
from autofit.predict.predictor import Predictor
from autofit.predict.step_time import OF_PUBLISHED_PEAKS
from autofit.trial.traces import TraceKeeper
from autofit.trial.workshop import Workshop, probe
from benchmarks.record import about
from benchmarks.search.record_sweep import MODELS, SWEEPS
from benchmarks.search.sweep import Row, Sweep, write_sweep

JOBS: dict[str, tuple[str, int, float]] = {
    "predicted-llama": (str(MODELS / "wide-llama"), 64, 5.6),
    "predicted-gpt-neox": (str(MODELS / "wide-gpt-neox"), 96, 5.0),
}
"""Model, effective batch, mean logarithm of the lengths."""
LEFT_OUT = {
    "activation_checkpointing": ["offload", "every_3rd"],
    "optimizer": ["paged_adamw_32bit", "adamw_torch_4bit", "adamw_torch_8bit"],
    "precision": ["fp16"],
    "batch_layout": ["batch_rebalance", "fixed_padding"],
    "allocator": ["expandable"],
    "attention": ["flash_attention_3", "flash_attention_4", "flex_attention"],
}


def predict(name: str) -> None:
    """Predict a whole space and write it."""
    model, effective_batch, middle = JOBS[name]
    drawn = random.Random(0)
    lengths = [min(1024, max(16, round(drawn.lognormvariate(middle, 0.6)))) for _ in range(4000)]
    record = JobRequest(model=model, effective_batch=effective_batch, lengths=lengths, device="cpu").record()
    request = SpaceRequest.of("standard", forbid=LEFT_OUT)
    gpu = find_gpu("h100")
    with tempfile.TemporaryDirectory(prefix="autofit-") as folder:
        workshop = Workshop(kind_of("cpu"), 0, Path(folder), print)
        try:
            here = probe(workshop, record.model, record.workload, record.device, record.limits, trust_remote_code=False)
            attention = tuple(dict.fromkeys((*here.model.attention, "flash_attention_2")))
            situation = replace(
                here,
                device=gpu.device(),
                limits=Limits(memory_bytes=gpu.device().memory_bytes, headroom=0.05),
                # As if every package were there.
                libraries=replace(here.libraries, missing={}),
                model=replace(here.model, attention=attention),
            )
            space = SearchSpace(situation, request)
            print(f"{name}: {len(space)} configurations", {key: len(values) for key, values in space.choices.items()})
            keeper = TraceKeeper(
                Path(folder) / "traces", record.versions, lambda: workshop, lambda done, total: print(done, total)
            )
            predictor = Predictor(
                Needs(situation, record.model, keeper),
                situation,
                rates=gpu.rates,
                efficiency=OF_PUBLISHED_PEAKS,
            )
            predictor.prepare(space.configs)
            rows = [row for config in space.configs if (row := _row(predictor, config)) is not None]
        finally:
            workshop.close()
    assert len(rows) == len(space), f"{len(space) - len(rows)} cannot be predicted"
    content: dict[str, Any] = about(f"python -m benchmarks.search.predict_space {name}")
    sweep = Sweep(
        name=name,
        situation=situation,
        request=msgspec.to_builtins(request),
        rows=tuple(rows),
        about=content,
        synthetic=True,
    )
    write_sweep(sweep, SWEEPS / f"{name}.json.gz")


def _row(predictor: Predictor, config: TrainConfig) -> Row | None:
    try:
        prediction = predictor.predict(config, simulate=False)
    except CannotPredictError as error:
        print(config.key, error)
        return None
    fixed = {name: size for name, size in prediction.bytes_by_category.items() if name in ("workspaces", "context")}
    smaller = replace(
        prediction,
        bytes_by_category={**fixed, "live": prediction.live_bytes},
        notes=(),
        step_seconds=None
        if prediction.step_seconds is None
        else (float(f"{prediction.step_seconds[0]:.5g}"), float(f"{prediction.step_seconds[1]:.5g}")),
    )
    return Row(values=dict(config), answers=(), prediction=smaller)


def main(names: list[str]) -> int:
    """Predict the spaces that are named; all where none is."""
    for name in names or JOBS:
        predict(name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
