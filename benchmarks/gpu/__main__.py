"""Claims of autofit, measured on a GPU in one command.

    python -m benchmarks.gpu                          # all parts, on the first GPU
    python -m benchmarks.gpu --minutes 9              # go on for nine minutes, where the last call stopped
    python -m benchmarks.gpu --parts sweeps,search    # some parts
    python -m benchmarks.gpu --small --device cpu     # that every line runs, without a GPU

Results lie in ``benchmarks/results/gpu-CARD`` (``--output``): a JSON file for each part and the sweeps in the format
that ``benchmarks.search_regret`` replays. A part that is complete is not run again; ``--again`` does.
Nothing is fetched: models are built from configurations, with random weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autofit.device.kinds import find_device as detected
from benchmarks.gpu import correctness, lesson, live, sweeps
from benchmarks.gpu.bench import Bench, PartResult, attempt, find_device
from benchmarks.gpu.jobs import jobs_for
from benchmarks.peers import compare
from benchmarks.prediction.cuda import of_sweeps, whole_sweeps
from benchmarks.record import RESULTS, read_results, write_results


def _prediction(bench: Bench) -> PartResult:
    """Part 4: read off the sweeps, so it takes no time on the device."""
    figures = of_sweeps(whole_sweeps(bench.folder / "sweeps"))
    return PartResult(figures={"sweeps": figures}, is_complete=len(figures) == len(jobs_for(is_small=bench.is_small)))


def _peers(bench: Bench) -> PartResult:
    """Part 5: the other tools on the same card, turn by turn, at the first job's largest limit."""
    job = jobs_for(is_small=bench.is_small)[0]
    wanted: dict[str, Any] = {**job.job, **job.wanted, "device": bench.device, "memory_limit": bench.limits_of(job)[-1]}
    rounds, steps = 3, 24
    if bench.is_small:
        wanted |= {"max_trials": 2}
        rounds, steps = 1, 4
    folder = bench.scratch("peers")
    found = attempt("peers", lambda: compare(wanted, folder, rounds=rounds, steps=steps))
    return PartResult(figures={"job": wanted, "tools": found}, is_complete="failed" not in found)


PARTS: dict[str, Callable[[Bench], PartResult]] = {
    "correctness": correctness.run,
    "sweeps": sweeps.run,
    "search": live.run,
    "prediction": _prediction,
    "peers": _peers,
    "lesson": lesson.run,
}


def main(words: list[str] | None = None) -> int:
    """Run what is not complete yet; 1 where something is left or failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop starting things after this long")
    parser.add_argument("--device", default="auto", help="auto, cuda:0, cpu")
    parser.add_argument("--small", action="store_true", help="tiny models: that everything runs, no figures to quote")
    parser.add_argument("--output", type=Path, help="folder for results; an earlier call's is gone on with")
    parser.add_argument("--again", action="store_true", help="run complete parts again")
    options = parser.parse_args(words)
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    device = find_device(options.device)
    if device == "cpu" and not options.small:
        parser.error("there is no GPU here; --small goes through every part on the CPU")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    bench = Bench(
        device=device,
        is_small=options.small,
        folder=options.output or RESULTS / f"gpu-{_folder_name(device)}",
        deadline=time.monotonic() + 60 * options.minutes,
        memory_bytes=detected(device).memory_bytes,
    )
    left = [name for name in PARTS if name in options.parts.split(",") and not _run(bench, name, again=options.again)]
    print(f"\n{'Left for the next call: ' + ', '.join(left) if left else 'Everything is complete'}; {bench.folder}")
    return 1 if left else 0


def _run(bench: Bench, name: str, *, again: bool) -> bool:
    """True if a part is complete now."""
    path = bench.folder / f"{name}.json"
    if path.exists() and not again and read_results(path)["is_complete"]:
        return True
    if bench.seconds_left <= 0:
        return False
    if again:
        shutil.rmtree(bench.scratch(name))
    print(f"\n== {name}", flush=True)
    result = PARTS[name](bench)
    write_results(f"gpu_{name}", {"is_complete": result.is_complete, **result.figures}, path)
    return result.is_complete


def _folder_name(device: str) -> str:
    return "-".join(detected(device).name.lower().replace("nvidia", "").split())


if __name__ == "__main__":
    raise SystemExit(main())
