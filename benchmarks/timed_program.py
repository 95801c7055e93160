"""Runs a program as it is and writes down how long its optimizer steps take: it knows nothing of autofit.

``python -m benchmarks.timed_program STEPS RESULT.json PROGRAM ARGS...``. All it changes is how many steps are run, and
that nothing is evaluated or saved. The last step of an epoch is left out: it has the samples that are left over.
"""

from __future__ import annotations

import itertools
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import transformers


class Clock(transformers.TrainerCallback):  # type: ignore[misc]
    """Moments at which optimizer steps end, and numbers of those that end an epoch."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.ends: set[int] = set()

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.moments.append(time.perf_counter())

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.add(len(self.moments) - 1)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.moments.append(time.perf_counter())


def main(arguments: list[str]) -> int:
    """Run the program."""
    steps, result, program = int(arguments[0]), Path(arguments[1]), arguments[2:]
    create = transformers.Trainer.__init__
    clock = Clock()

    def created(self: Any, *args: Any, **kwargs: Any) -> None:
        create(self, *args, **kwargs)
        self.args.max_steps, self.args.eval_strategy = steps, "no"
        self.args.logging_strategy = self.args.save_strategy = "no"
        # It would wait for evaluations.
        self.remove_callback(transformers.EarlyStoppingCallback)
        self.args.load_best_model_at_end = False
        self.save_model = lambda *args, **kwargs: None
        self.add_callback(clock)

    transformers.Trainer.__init__ = created
    sys.argv = program
    sys.path.insert(0, str(Path(program[0]).resolve().parent))
    runpy.run_path(program[0], run_name="__main__")
    moments = clock.moments
    steps_taken = enumerate(itertools.pairwise(moments), start=1)
    whole = [later - earlier for number, (earlier, later) in steps_taken if number not in clock.ends]
    result.write_text(json.dumps(whole))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
