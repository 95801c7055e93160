"""``python -m benchmarks.under_limit MIB SCRIPT ARGS``: an exported script under the limit that its search was under.

The limit is on the growth of the process's data segment, as in a trial: what the imported libraries hold is not
counted, nor the stacks of the threads that load weights (transformers starts a few, glibc keeps their stacks of 8 MiB
mapped and hardly touched: 29 MiB for a model of 4). Everything else that the script does is. Linux only.
"""

from __future__ import annotations

import ast
import ctypes
import gc
import importlib
import os
import runpy
import sys
from pathlib import Path

from autofit.units import format_bytes


def main(limit_bytes: int, script: Path, words: list[str]) -> None:
    """Run the script as a program of its own. Raises whatever it raises."""
    for statement in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "ENVIRONMENT":
            # Read by libraries that are imported below, before the script could set them.
            os.environ.update(ast.literal_eval(statement.value))
    from autofit.trial.protocol import MemoryPlan
    from autofit.worker.accelerator import Processor
    from autofit.worker.server import PRELOADED

    for module in PRELOADED:
        importlib.import_module(module)
    sys.argv = [str(script), *words]
    model = [words[words.index("--model") + 1]] if "--model" in words else []
    runpy.run_path(str(script), run_name="imported")["load_model"](*model)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    processor = Processor()
    processor.open(MemoryPlan(own_bytes=limit_bytes), reserved_for_paging=0)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        processor.release()
        print(f"needed {format_bytes(processor.memory(0, 0).needed)} of {format_bytes(limit_bytes)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) * 2**20, Path(sys.argv[2]), sys.argv[3:])
