"""ms-swift's own reading of files, in a process that finds it: ``python read_by_ms_swift.py MODEL FILE ...``.

MODEL is a small llama with a tokenizer. Prints a JSON list: for each file what ms-swift made of its keys.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

os.environ.update(HF_HUB_OFFLINE="1", USE_HF="1", CUDA_VISIBLE_DEVICES="")

from swift.arguments import SftArguments


def read(model: str, path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    own = {"model": model, "model_type": "llama", "template": "llama3", "dataset": ["data.jsonl"], "use_cpu": True}
    own |= {"output_dir": str(path.with_suffix(""))}
    arguments = SftArguments(**{**document, **own})
    found: dict[str, Any] = {}
    for key in document:
        value = getattr(arguments, key)
        found[key] = str(value).removeprefix("torch.") if "dtype" in key and value is not None else value
    found["trainer"] = {
        key: getattr(arguments.training_args, key) for key in document if hasattr(arguments.training_args, key)
    }
    return found


if __name__ == "__main__":
    print("READ", json.dumps([read(sys.argv[1], Path(word)) for word in sys.argv[2:]], default=str))
