"""Quality of the predictions: ``python -m benchmarks.memory_prediction PART``. Parts print a table and write JSON.

live        1  bytes alive in each phase, traced, against real Trainer steps on this CPU (6 minutes)
live_processes  the same of one of 2 and 4 processes that share a training by DDP or FSDP2 (6 minutes)
cuda        2  allocated and reserved against a real GPU; where there is none it says so
null_gpu      allocated and reserved against torch's own allocator, on cards whose kernels do nothing (15 minutes; needs
              torch for CUDA: run it as make null-gpu-predictions does)
published   3  peaks that other people measured on GPUs, against traces; beside them the rules people use (2 minutes)
published_time  step times of the same runs, against the same traces on the cards' published peaks (5 minutes)
time        4  predicted against measured seconds over a sweep of this CPU (6 minutes; run it alone)
spared      5  the same search with and without prediction (8 minutes; run it alone)
calibrated  7  predicted seconds after some trials, replayed over recorded sweeps (1 minute)
lesson      6  what courses say of memory, and what traces of named models give (1 minute)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from benchmarks.record import write_results


def main(words: list[str]) -> int:
    """Run the parts that are named; all but the GPU's where none is."""
    parts = _parts()
    chosen = words or [name for name in parts if name not in ("cuda", "null_gpu")]
    unknown = [word for word in chosen if word not in parts]
    if unknown:
        print(f"There is no part '{unknown[0]}'; the parts are {', '.join(parts)}.", file=sys.stderr)
        return 2
    for name in chosen:
        print(f"== {name}")
        figures = parts[name]()
        if figures:
            write_results(f"prediction_{name}", figures)
    return 0


def _parts() -> dict[str, Callable[[], dict[str, Any]]]:
    from benchmarks.prediction import (
        calibrated,
        cuda,
        lesson,
        live_bytes,
        live_processes,
        null_gpu,
        published,
        published_time,
        spared,
        sweep_time,
    )

    return {
        "live": live_bytes.run,
        "live_processes": live_processes.run,
        "cuda": cuda.run,
        "null_gpu": null_gpu.run,
        "published": published.run,
        "published_time": published_time.run,
        "time": sweep_time.run,
        "spared": spared.run,
        "calibrated": calibrated.run,
        "lesson": lesson.run,
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
