"""Axolotl's own reading of files, in a process that finds Axolotl: ``python read_by_axolotl.py FILE ...``.

Prints a JSON list: for each file what Axolotl made of its keys, and the keys that it dropped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from axolotl.utils.config import prepare_plugins, validate_config
from axolotl.utils.dict import DictDefault

CARD = {"bf16": True, "fp8": False, "tf32": True, "n_gpu": 1, "n_node": 1, "compute_capability": "sm_90"}

OWN = {"datasets": [{"path": "data.jsonl", "type": "completion"}], "learning_rate": 1e-4}


def read(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    config = DictDefault(
        {**document, "datasets": [{"path": "data.jsonl", "type": "completion"}], "learning_rate": 1e-4}
    )
    prepare_plugins(config)
    understood = validate_config(config, capabilities=CARD, env_capabilities={"torch_version": "2.13.0"})
    return {
        "understood": {key: understood.get(key) for key in document},
        "dropped": sorted(set(document) - set(understood)),
    }


if __name__ == "__main__":
    print("READ", json.dumps([read(Path(word)) for word in sys.argv[1:]], default=str))
