"""Record full sweeps on this CPU, twice each in random order: ``python -m benchmarks.search.record_sweep [NAME ...]``.

Nothing else may run meanwhile. Under a memory limit, so that some configurations run out of memory.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import about
from benchmarks.search.recorder import Recorder
from benchmarks.search.sweep import write_sweep

SWEEPS = Path(__file__).parent / "sweeps"
MODELS = Path("benchmarks/search/models")
PASSES = 2
ALL_FP32: dict[str, Any] = {"fix": {"precision": "fp32", "compile": "off"}, "numerics": "standard"}
JOBS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama-fixed": (
        {"model": "examples/small-llama", "effective_batch": 16, "seq_len": 128, "memory_limit": "90MiB"},
        {
            **ALL_FP32,
            "forbid": {
                "activation_checkpointing": ["every_3rd", "every_4th"],
                "optimizer": ["lion_8bit", "adamw_torch"],
            },
        },
    ),
    "gpt-neox-fixed": (
        {"model": str(MODELS / "small-gpt-neox"), "effective_batch": 16, "seq_len": 96, "memory_limit": "110MiB"},
        {**ALL_FP32, "forbid": {"activation_checkpointing": ["every_3rd"], "optimizer": ["lion_8bit", "adamw_torch"]}},
    ),
    "llama-genesis": (
        {
            "model": "examples/small-llama",
            "effective_batch": 16,
            "data": "examples/genesis.txt",
            "tokens_per_word": 1.3,
            "memory_limit": "110MiB",
        },
        {
            **ALL_FP32,
            "numerics": "aggressive",
            "fix": {**ALL_FP32["fix"], "attention": "sdpa"},
            "forbid": {
                "activation_checkpointing": ["every_3rd", "every_4th"],
                "optimizer": ["lion_8bit", "adafactor", "adamw_8bit", "adamw_torch"],
                "batch_layout": ["batch_rebalance"],
            },
        },
    ),
}
"""A job and the part of its space that is swept."""


def record(name: str) -> None:
    """Measure every configuration of a sweep and write the file."""
    job, wanted = JOBS[name]
    with (
        tempfile.TemporaryDirectory(prefix="autofit-") as folder,
        Recorder(name, {"device": "cpu", **job}, wanted, Path(folder), PASSES) as recorder,
    ):
        print(f"{name}: {len(recorder.space)} configurations, {PASSES} times", flush=True)
        began = time.monotonic()
        recorder.run(math.inf)
        print(f"measured in {time.monotonic() - began:.0f} s", flush=True)
        sweep = recorder.sweep(about(f"python -m benchmarks.search.record_sweep {name}"))
    write_sweep(sweep, SWEEPS / f"{name}.json.gz")
    outcomes = [answer.outcome.value for row in sweep.rows for answer in row.answers]
    print({each: outcomes.count(each) for each in sorted(set(outcomes))}, flush=True)


def main(names: list[str]) -> int:
    """Record the sweeps that are named; all where none is."""
    for name in names or JOBS:
        record(name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
