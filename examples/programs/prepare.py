"""Writes what the YAML files beside it read: a small llama with weights, and its samples."""

import json
from pathlib import Path

from common import lines, small_llama, tokenizer

folder = Path("example")
small_llama().save_pretrained(folder / "model")
tokenizer().save_pretrained(folder / "model")
(folder / "data").mkdir(exist_ok=True)
with (folder / "data" / "train.jsonl").open("w", encoding="utf-8") as file:
    for line in lines():
        file.write(json.dumps({"text": line}) + "\n")
# LLaMA-Factory finds data sets by this file.
about = {"lines": {"file_name": "data/train.jsonl", "columns": {"prompt": "text"}}}
(folder / "dataset_info.json").write_text(json.dumps(about), encoding="utf-8")
