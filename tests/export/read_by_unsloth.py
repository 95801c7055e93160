"""Unsloth's own reading of files, in a process that finds it: ``python read_by_unsloth.py FILE ...``.

Prints a JSON list: for each file what its command would train with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from unsloth_cli.config import load_config

if __name__ == "__main__":
    print("READ", json.dumps([json.loads(load_config(Path(word)).model_dump_json()) for word in sys.argv[1:]]))
