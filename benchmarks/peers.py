"""The real packages beside autofit on one small case, on this CPU under a memory cap.

``python -m benchmarks.peers``: accelerate's ``find_executable_batch_size`` and the Trainer's
``auto_find_batch_size`` each find their micro-batch under the same cap; then what each ends with, and what autofit
recommends, trains at the same effective batch (by accumulation, which these tools leave to the user), turn by turn.
Lightning's batch size finder and pytorch-autotune are run where they are installed, and said to be missing elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import autofit
from autofit.recipe import recipe_for
from benchmarks.record import write_results

MODEL, EFFECTIVE_BATCH, LENGTH, CAP = "examples/small-llama", 32, 256, "160MiB"
ROUNDS = 3
FRAME = """
import json, resource, sys, time
import torch
from accelerate.utils import find_executable_batch_size
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

job = json.load(open(sys.argv[1]))
torch.manual_seed(0)
config = AutoConfig.from_pretrained(job["model"])
tokens = torch.randint(0, config.vocab_size, (512, job["length"]))
rows = [{"input_ids": row, "labels": row} for row in tokens]

def make(steps, size, **others):
    model = AutoModelForCausalLM.from_config(config, **job.get("model_kwargs", {"dtype": "float32"}))
    arguments = {"use_cpu": True, "report_to": [], "save_strategy": "no", "logging_steps": 1000,
                 "output_dir": sys.argv[2], "max_steps": steps, "per_device_train_batch_size": size, **others}
    ends = []
    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            ends.append(time.perf_counter())
    return Trainer(model=model, args=TrainingArguments(**arguments), train_dataset=rows, callbacks=[Clock()]), ends

def cap():
    # What the process has already is not the job's; RLIMIT_DATA counts it.
    held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (held + job["cap"], held + job["cap"]))
"""
ACCELERATE = (
    FRAME
    + """
make(1, 1)[0].train()
cap()
tried = []
@find_executable_batch_size(starting_batch_size=job["effective_batch"])
def train(batch_size):
    tried.append(batch_size)
    make(2, batch_size)[0].train()
    return batch_size
print("FOUND", json.dumps({"size": train(), "tried": tried}))
"""
)
AUTO_FIND = (
    FRAME
    + """
make(1, 1)[0].train()
cap()
trainer, _ = make(2, job["effective_batch"], auto_find_batch_size=True)
trainer.train()
print("FOUND", json.dumps({"size": trainer._train_batch_size}))
"""
)
TRAIN = (
    FRAME
    + """
arguments = job["arguments"]
size = arguments.pop("per_device_train_batch_size")
arguments.pop("use_cpu", None)
trainer, ends = make(8, size, **arguments)
trainer.train()
print("FOUND", json.dumps({"seconds": (ends[-1] - ends[1]) / (len(ends) - 2)}))
"""
)


def main() -> int:
    """Find with each, train with each, compare, write the results."""
    with tempfile.TemporaryDirectory(prefix="autofit-") as name:
        folder = Path(name)
        began = time.monotonic()
        result = autofit.search(
            MODEL,
            effective_batch=EFFECTIVE_BATCH,
            seq_len=LENGTH,
            device="cpu",
            memory_limit=CAP,
            budget=None,
            fix={"precision": "fp32", "compile": "off"},
            storage=f"sqlite:///{folder}/studies.db",
        )
        found: dict[str, dict[str, Any]] = {"autofit": {"search_seconds": time.monotonic() - began}}
        recipe = recipe_for(result.best.trial.config, result.situation)
        found["autofit"] |= {"arguments": recipe.training_arguments, "model_kwargs": recipe.model_kwargs}
        usable = result.situation.limits.usable_bytes
        for tool, script in (("accelerate", ACCELERATE), ("auto_find_batch_size", AUTO_FIND)):
            began = time.monotonic()
            answer = _run(script, {"cap": usable, "effective_batch": EFFECTIVE_BATCH}, folder)
            found[tool] = answer | {"search_seconds": time.monotonic() - began}
            if "size" in answer:
                # The nearest split of the effective batch that the found size has room for.
                size = max(n for n in range(1, answer["size"] + 1) if EFFECTIVE_BATCH % n == 0)
                found[tool]["arguments"] = {
                    "per_device_train_batch_size": size,
                    "gradient_accumulation_steps": EFFECTIVE_BATCH // size,
                }
        runs: dict[str, list[float]] = {tool: [] for tool in found if "arguments" in found[tool]}
        for number in range(ROUNDS):
            for tool in list(runs) if number % 2 == 0 else list(reversed(runs)):
                job: dict[str, Any] = {
                    name: found[tool][name] for name in ("arguments", "model_kwargs") if name in found[tool]
                }
                runs[tool].append(_run(TRAIN, job, folder)["seconds"])
    for tool, package in (("Lightning", "lightning"), ("pytorch-autotune", "autotune")):
        if importlib.util.find_spec(package) is None:
            found[tool] = {"missing": "not installed here"}
    print(f"{'tool':22} {'micro-batch':>11} {'search':>8} {'samples/s':>10} {'autofit is':>10}")
    best = statistics.median(runs["autofit"])
    for tool, answer in found.items():
        if tool not in runs:
            print(f"{tool:22} {answer.get('missing') or answer.get('failed')}")
            continue
        seconds = statistics.median(runs[tool])
        answer |= {"step_seconds": runs[tool], "times_as_slow_as_autofit": seconds / best}
        size = answer["arguments"]["per_device_train_batch_size"]
        print(
            f"{tool:22} {size:11} {answer['search_seconds']:6.0f} s "
            f"{EFFECTIVE_BATCH / seconds:10.1f} {seconds / best:9.2f}x"
        )
    write_results("peers", {"model": MODEL, "effective_batch": EFFECTIVE_BATCH, "cap": CAP, "tools": found})
    return 0


def _run(script: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    document = folder / "job.json"
    document.write_text(json.dumps({"model": MODEL, "length": LENGTH, **job}))
    finished = subprocess.run(
        [sys.executable, "-c", script, str(document), str(folder / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if "FOUND" not in finished.stdout:
        return {"failed": (finished.stderr.strip().splitlines() or ["no word"])[-1][:200]}
    answer: dict[str, Any] = json.loads(finished.stdout.rsplit("FOUND", 1)[1])
    return answer


if __name__ == "__main__":
    raise SystemExit(main())
