"""``python benchmarks/under_limit.py MIB SCRIPT ARGS``: an exported script under the limit that its search was under.

The limit is on the growth of the process's data segment, as in a trial: what the imported libraries hold is not
counted. Linux only.
"""

from __future__ import annotations

import ast
import os
import resource
import runpy
import sys
from pathlib import Path


def main(limit_bytes: int, script: Path, words: list[str]) -> None:
    """Run the script as a program of its own. Raises whatever it raises."""
    for statement in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "ENVIRONMENT":
            # Read by libraries that are imported below, before the script could set them.
            os.environ.update(ast.literal_eval(statement.value))
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401 - what the script would import later
    from transformers import Trainer  # noqa: F401

    torch.ones(2**20).exp_()  # starts the pool of threads
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    held = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + limit_bytes, held + limit_bytes))
    sys.argv = [str(script), *words]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(int(sys.argv[1]) * 2**20, Path(sys.argv[2]), sys.argv[3:])
