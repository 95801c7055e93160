"""LLaMA-Factory's own reading of files, in a process that finds it: ``python read_by_llama_factory.py FILE ...``.

Prints a JSON list: for each file what LLaMA-Factory made of its keys.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

# It refuses what is not distributed: a single rank passes.
os.environ.update(DISABLE_VERSION_CHECK="1", RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(29000 + os.getpid() % 1000))

from llamafactory.hparams import get_train_args, parser

parser.is_torch_bf16_gpu_available = lambda: True  # files for a GPU are read without one

OWN = {"dataset": "lines", "template": "default", "output_dir": "output", "use_cpu": True, "report_to": "none"}


def read(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    parts = get_train_args({**document, **OWN})
    found = {}
    for key in document:
        holders = [part for part in parts if hasattr(part, key)]
        found[key] = getattr(holders[0], key) if holders else None
    found["activation_checkpointing_of_trainer"] = parts[2].gradient_checkpointing
    return found


if __name__ == "__main__":
    print("READ", json.dumps([read(Path(word)) for word in sys.argv[1:]], default=str))
