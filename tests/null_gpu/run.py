"""``python -m tests.null_gpu.run FOLDER COMMAND ...``: run a command with the null GPU that was built in a folder.

Settings are environment variables: see README.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.null_gpu.build import LIBRARY

HOOK = Path(__file__).resolve().with_name("hook")


def environment(folder: Path, own: Mapping[str, str]) -> dict[str, str]:
    """Variables of a process that has the null GPU, from those of one that has not."""
    folder = folder.resolve()
    before = {"LD_PRELOAD": folder / LIBRARY, "LD_LIBRARY_PATH": folder, "PYTHONPATH": HOOK}
    made = dict(own)
    for name, first in before.items():
        made[name] = f"{first}:{own[name]}" if own.get(name) else str(first)
    # Counts of memory are shared by the processes of one run, and by no others.
    made.setdefault("NULL_GPU_ID", str(os.getpid()))
    return made


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m tests.null_gpu.run FOLDER COMMAND ...")
    os.execvpe(sys.argv[2], sys.argv[2:], environment(Path(sys.argv[1]), os.environ))
