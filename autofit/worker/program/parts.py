"""The Trainer of a training whose parts ``autofit.search_training`` wrote into a folder."""

from __future__ import annotations

import inspect
import json
import pickle
import sys
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments


def trainer_of(program: str) -> Trainer:
    """The Trainer, made of the parts beside the program."""
    folder = Path(program).parent
    # As where the search was asked for: in that order, and without the program's own folder.
    paths = json.loads((folder / "paths.json").read_text())
    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths and Path(path) != folder)]

    def part(name: str) -> Any:
        path = folder / f"{name}.pickle"
        return pickle.loads(path.read_bytes()) if path.exists() else None

    dataset = part("train_dataset")
    arguments = {"report_to": "none", "save_strategy": "no", **part("training_arguments")}
    return Trainer(
        model=part("build_model")(),
        args=TrainingArguments(output_dir=str(folder / "output"), **arguments),
        train_dataset=dataset() if inspect.isfunction(dataset) else dataset,
        data_collator=part("data_collator"),
        compute_loss_func=part("compute_loss_func"),
    )
