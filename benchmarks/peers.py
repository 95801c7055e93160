"""The real packages beside autofit: what each finds under the same memory limit, and what that trains at.

``python -m benchmarks.peers`` on this CPU; ``benchmarks.gpu`` has the same on a card. accelerate's
``find_executable_batch_size`` and the Trainer's ``auto_find_batch_size`` each find their micro-batch; then what each
ends with, and what autofit recommends, trains at the same effective batch (by accumulation, which these tools leave to
the user), turn by turn. The other settings of theirs are those of autofit's reference: the defaults of
TrainingArguments in the precision that the numerics class allows. Lightning's batch size finder and pytorch-autotune
are said to be missing where they are not installed.
"""

from __future__ import annotations

import importlib.util
import json
import pprint
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import autofit
from autofit.job.tasks import task_named
from autofit.knobs.recipe import Recipe, recipe_for
from autofit.study.result import Result
from benchmarks.plain_run import LIMIT_CARD, exported, one_device, plain_run
from benchmarks.record import write_results

JOB: dict[str, Any] = {
    "model": "examples/small-llama",
    "effective_batch": 32,
    "seq_len": 256,
    "memory_limit": "160MiB",
    "device": "cpu",
    "fix": {"precision": "fp32", "compile": "off"},
}
ROUNDS, STEPS = 3, 8
PACKAGES = (("Lightning", "lightning"), ("pytorch-autotune", "autotune"))
_FRAME = """
import json, sys
import torch, transformers
from accelerate.utils import find_executable_batch_size
from transformers import AutoConfig, Trainer, TrainingArguments

job = json.load(open(sys.argv[1]))
torch.manual_seed(0)
values = dict(job["config"])
config = AutoConfig.for_model(values.pop("model_type"), **values)
tokens = torch.randint(0, config.vocab_size, (512, job["length"]))
rows = [{"input_ids": row, "labels": row} for row in tokens]

def make(size, model=None, **others):
    model = model or getattr(transformers, job["auto_class"]).from_config(config, **job["model_kwargs"])
    arguments = {**job["arguments"], "report_to": [], "save_strategy": "no", "logging_steps": 999, "disable_tqdm": True,
                 "output_dir": sys.argv[2], "max_steps": 2, "per_device_train_batch_size": size, **others}
    return Trainer(model=model, args=TrainingArguments(**arguments), train_dataset=rows)

@LIMIT_CARD@
class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, input_ids, labels):
        return {"loss": (self.weight * input_ids.float()).mean()}

def cap():
    if job["arguments"].get("use_cpu"):
        import resource
        # What the process has already, its libraries loaded, is not the job's; RLIMIT_DATA counts it.
        make(1, model=Tiny()).train()
        held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (held + job["cap"], held + job["cap"]))
    else:
        limit_card(job["cap"])

cap()
""".replace("@LIMIT_CARD@", LIMIT_CARD)
_ACCELERATE = """
tried = []
@find_executable_batch_size(starting_batch_size=job["effective_batch"])
def train(batch_size):
    tried.append(batch_size)
    make(batch_size).train()
    return batch_size
print("FOUND", json.dumps({"size": train(), "tried": tried}))
"""
_AUTO_FIND = """
trainer = make(job["effective_batch"], auto_find_batch_size=True)
trainer.train()
print("FOUND", json.dumps({"size": trainer._train_batch_size}))
"""
_FINDERS = (("accelerate", _FRAME + _ACCELERATE), ("auto_find_batch_size", _FRAME + _AUTO_FIND))
_ARGUMENTS = """
from transformers import TrainingArguments, default_data_collator

MODEL_KWARGS = @MODEL_KWARGS@
TRAINING_ARGUMENTS = @TRAINING_ARGUMENTS@

def training_arguments(output_dir, **others):
    return TrainingArguments(output_dir=output_dir, **{**TRAINING_ARGUMENTS, **others})

def data_collator():
    return default_data_collator
"""


def main() -> int:
    """Find with each, train with each, compare, write the results."""
    with tempfile.TemporaryDirectory(prefix="autofit-") as folder:
        found = compare(JOB, Path(folder), rounds=ROUNDS, steps=STEPS)
    write_results("peers", {"job": JOB, "tools": found})
    return 0


def compare(job: dict[str, Any], folder: Path, *, rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """For each tool: what it found, how long that took, and seconds of a step in plain runs."""
    began = time.monotonic()
    result = autofit.search(**{"budget": None, **job}, storage=f"sqlite:///{folder}/peers.db", fresh=True)
    found: dict[str, dict[str, Any]] = {"autofit": {"search_seconds": time.monotonic() - began}}
    best, workload = result.ranking.best, result.record.workload
    assert best is not None
    found["autofit"] |= {"size": best.trial.config.micro_batch_size, "config": dict(best.trial.values)}
    files = {"autofit": exported(result, best, folder / "autofit.py")}
    recipe = _reference(result)
    for tool, script in _FINDERS:
        began = time.monotonic()
        answer = _find(script, result, recipe, folder)
        found[tool] = answer | {"search_seconds": time.monotonic() - began}
        if "size" in answer:
            files[tool] = _arguments_file(recipe, answer["size"], workload.effective_batch, folder / f"{tool}.py")
    lengths = [workload.lengths.longest] * (workload.effective_batch * (steps + 1))
    memory = result.situation.limits.memory_bytes
    runs: dict[str, list[float]] = {tool: [] for tool in files}
    for number in range(rounds):
        for tool in list(runs) if number % 2 == 0 else list(reversed(runs)):
            run = plain_run(result, files[tool], lengths, folder, steps=steps, memory_bytes=memory)
            if run.steps:
                runs[tool].append(statistics.fmean(run.steps[1:]))
            else:
                found[tool]["failed"] = run.problem
    for tool, package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            found[tool] = {"missing": "not installed here"}
    _print(found, runs, workload.effective_batch)
    return found


def _print(found: dict[str, dict[str, Any]], runs: dict[str, list[float]], effective_batch: int) -> None:
    print(f"{'tool':22} {'micro-batch':>11} {'search':>8} {'samples/s':>10} {'autofit is':>10}")
    best = statistics.median(runs["autofit"]) if runs["autofit"] else None
    for tool, answer in found.items():
        if not runs.get(tool):
            print(f"{tool:22} {answer.get('missing') or answer.get('failed')}")
            continue
        seconds = statistics.median(runs[tool])
        answer |= {"step_seconds": runs[tool], "times_as_slow_as_autofit": None if best is None else seconds / best}
        print(
            f"{tool:22} {answer['size']:11} {answer['search_seconds']:6.0f} s {effective_batch / seconds:10.1f} "
            f"{answer['times_as_slow_as_autofit'] or 0:9.2f}x"
        )


def _reference(result: Result) -> Recipe:
    """A user's figures besides these tools: the search's own reference."""
    reference = result.ranking.reference
    assert reference is not None, "a search measures its reference"
    return recipe_for(reference.config, result.situation)


def _arguments_file(recipe: Recipe, size: int, effective_batch: int, path: Path) -> Path:
    """A file as an export is, with the nearest split of the effective batch that the found size has room for."""
    micro_batch = max(number for number in range(1, size + 1) if effective_batch % number == 0)
    arguments = {
        **recipe.training_arguments,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": effective_batch // micro_batch,
    }
    text = _ARGUMENTS.replace("@MODEL_KWARGS@", pprint.pformat(recipe.model_kwargs))
    path.write_text(text.replace("@TRAINING_ARGUMENTS@", pprint.pformat(arguments)), encoding="utf-8")
    return path


def _find(script: str, result: Result, recipe: Recipe, folder: Path) -> dict[str, Any]:
    workload = result.record.workload
    arguments = {name: value for name, value in recipe.training_arguments.items() if "batch_size" not in name}
    arguments.pop("gradient_accumulation_steps", None)
    job = {
        "config": result.record.model.config,
        "auto_class": task_named(workload.task).auto_class,
        "length": workload.sequence_length,
        "effective_batch": workload.effective_batch,
        "model_kwargs": recipe.model_kwargs,
        "arguments": arguments,
        "cap": result.situation.limits.usable_bytes,
    }
    document = folder / "find.json"
    document.write_text(json.dumps(job))
    finished = subprocess.run(
        [sys.executable, "-c", script, str(document), str(folder / "out")],
        capture_output=True,
        text=True,
        env={**one_device(result.situation), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if "FOUND" not in finished.stdout:
        return {"failed": (finished.stderr.strip().splitlines() or ["no word"])[-1][:200]}
    answer: dict[str, Any] = json.loads(finished.stdout.rsplit("FOUND", 1)[1])
    return answer


if __name__ == "__main__":
    raise SystemExit(main())
