"""Write down what a release's TrainingArguments accept, read from its source without importing it.

python -m tests.knobs.recorded.record_training_arguments 5.17.0 path/to/transformers/training_args.py
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

FILE = Path(__file__).with_name("training_arguments.json")


def read(source: str) -> dict[str, list[str]]:
    """Field names, optimizer names and sampling strategies."""
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    fields = [
        node for node in classes["TrainingArguments"].body if isinstance(node, ast.AnnAssign) and node.value is not None
    ]
    sampling = next(node for node in fields if getattr(node.target, "id", "") == "train_sampling_strategy")
    choices = next(
        value
        for keyword in ast.walk(sampling)
        if isinstance(keyword, ast.Dict)
        for key, value in zip(keyword.keys, keyword.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "choices"
    )
    return {
        "fields": sorted(node.target.id for node in fields if isinstance(node.target, ast.Name)),
        "optimizers": sorted(
            node.value.value
            for node in classes["OptimizerNames"].body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        ),
        "sampling_strategies": ast.literal_eval(choices),
    }


def main() -> None:
    version, path = sys.argv[1:]
    recorded = json.loads(FILE.read_text()) if FILE.exists() else {}
    recorded[version] = read(Path(path).read_text(encoding="utf-8"))
    FILE.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
