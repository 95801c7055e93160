"""Reported against delivered: the table's speed against a plain Trainer run with the arguments that are exported.

``python -m benchmarks.delivered`` searches two small models, takes the recommendation and four other measured
configurations of each, and trains each in a process of its own that knows nothing of autofit: built from the config,
TrainingArguments, a data set of random tokens, ``trainer.train()`` for 24 optimizer steps, of which the first four are
left out. Every configuration runs three times, turn by turn; the machine's own noise is what these runs differ by.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import autofit
from autofit.ranking import Ranked
from autofit.recipe import recipe_for
from benchmarks.record import write_results
from benchmarks.search.record_sweep import MODELS

ROUNDS = 3
OTHERS = 4
JOBS: list[dict[str, Any]] = [
    {"model": "examples/small-llama", "effective_batch": 16, "seq_len": 128},
    {"model": str(MODELS / "small-gpt-neox"), "effective_batch": 12, "seq_len": 96},
]
PLAIN_RUN = """
import json, sys, time
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

job = json.load(open(sys.argv[1]))
torch.manual_seed(0)
config = AutoConfig.from_pretrained(job["model"])
model = AutoModelForCausalLM.from_config(config, **job["model_kwargs"])
tokens = torch.randint(0, config.vocab_size, (256, job["length"]))
rows = [{"input_ids": row, "labels": row} for row in tokens]
ends = []

class Clock(TrainerCallback):
    def on_step_end(self, args, state, control, **others):
        ends.append(time.perf_counter())

arguments = TrainingArguments(output_dir=sys.argv[2], max_steps=24, report_to=[], save_strategy="no",
                              logging_steps=1000, **job["arguments"])
Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Clock()]).train()
print("SECONDS", (ends[-1] - ends[3]) / (len(ends) - 4))
"""


def main() -> int:
    """Search, run, compare, write the results."""
    figures = [_compare(job) for job in JOBS]
    write_results("delivered", {"rounds": ROUNDS, "jobs": figures})
    return 0


def _compare(job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="autofit-") as folder:
        result = autofit.search(
            **job,
            device="cpu",
            budget=None,
            fix={"precision": "fp32", "compile": "off"},
            storage=f"sqlite:///{folder}/studies.db",
        )
        ranked = list(result.ranking.ranked)
        chosen = [ranked[0], *_spread(ranked[1:])]
        runs: list[list[float]] = [[] for _ in chosen]
        for number in range(ROUNDS):
            order = range(len(chosen)) if number % 2 == 0 else reversed(range(len(chosen)))
            for place in order:
                runs[place].append(_delivered(job, chosen[place], result, Path(folder)))
    rows = []
    print(f"\n{job['model']}: reported and delivered seconds of a step")
    for each, delivered in zip(chosen, runs, strict=True):
        middle = statistics.median(delivered)
        reported = each.measurement.step_seconds
        rows.append(
            {
                "config": dict(each.trial.values),
                "rank": each.rank,
                "confirmed": each.trial.whole,
                "reported_seconds": reported,
                "reported_uncertainty": each.measurement.uncertainty,
                "delivered_seconds": delivered,
                "overstated_by": middle / reported - 1,
                "noise_of_delivered": (max(delivered) - min(delivered)) / 2 / middle,
            }
        )
        print(
            f"rank {each.rank:3} {'confirmed' if each.trial.whole else 'single':9} {reported:8.4f} {middle:8.4f} "
            f"{middle / reported - 1:+7.1%}   noise of the plain runs ±{rows[-1]['noise_of_delivered']:.1%}"
        )
    return {"job": job, "rows": rows}


def _spread(ranked: list[Ranked]) -> list[Ranked]:
    """A few, from the second to the slowest."""
    if len(ranked) <= OTHERS:
        return ranked
    return [ranked[round(place * (len(ranked) - 1) / (OTHERS - 1))] for place in range(OTHERS)]


def _delivered(job: dict[str, Any], ranked: Ranked, result: autofit.SearchResult, folder: Path) -> float:
    recipe = recipe_for(ranked.trial.config, result.situation)
    document = folder / "job.json"
    content = {
        "model": job["model"],
        "length": job["seq_len"],
        "arguments": recipe.training_arguments,
        "model_kwargs": recipe.model_kwargs,
    }
    document.write_text(json.dumps(content))
    finished = subprocess.run(
        [sys.executable, "-c", PLAIN_RUN, str(document), str(folder / "out")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **recipe.environment},
    )
    return float(finished.stdout.rsplit("SECONDS", 1)[1])


if __name__ == "__main__":
    raise SystemExit(main())
