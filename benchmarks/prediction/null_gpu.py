"""Predictions against torch's own caching allocator, on a card whose kernels do nothing (tests/null_gpu/README.md).

What is allocated and reserved is real, as the host decides it; the figures are "on the null GPU", not "measured on
CUDA": workspaces of cuDNN and cuBLASLt and the context are not. Each group is a job of its own in a process of its own;
this module, run with a group's number and a capability, is that process. Where lengths vary, a plain training takes the
place of a trial (``real_training.py``): what is predicted is a training that meets its samples in their order.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit.driver.starts import made_valid
from autofit.driver.workers import Workers
from autofit.errors import UserError
from autofit.job.request import JobRequest
from autofit.knobs import KNOBS
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import TrainConfig
from autofit.predict.micro_batches import FORMAT as BATCHES_FORMAT
from autofit.predict.micro_batches import FORMAT_OF_SEVERAL, CannotPredictError
from autofit.predict.trace_request import FORMAT as TRACE_FORMAT
from autofit.study.outcome import Outcome
from autofit.study.prediction import Verdict
from autofit.trial.protocol import MeasuringPlan, StepJob, write_document
from benchmarks.record import RESULTS, about, read_results, write_results
from tests.null_gpu.build import BuildError, build
from tests.null_gpu.run import environment

CAPABILITIES = ("9.0", "8.0", "7.5")
_DRAWN = random.Random(0)
LENGTHS = [min(512, max(8, round(_DRAWN.lognormvariate(5.0, 0.8)))) for _ in range(2000)]
PLAN = MeasuringPlan(warmup_steps=2, warmup_limit=2, least_steps=1, most_steps=3, patience_seconds=0.0)
MOST_SECONDS, MOST_TRAINING_SECONDS = 2400, 300
FORMATS = (TRACE_FORMAT, BATCHES_FORMAT)
"""Of what predictions are made of: rows of other ones are made again."""
FILE = RESULTS / "prediction_null_gpu.json"
ALLOCATED, RESERVED_UNDER, RESERVED_OVER = 0.005, 0.015, 0.03
"""Targets of every row, as shares: allocated either way; reserved predicted too small, and too large."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One job. ``varied`` are the knobs of which each value is tried beside the plain bf16 configuration (fp16 where
    there is no bf16); ``splits`` the micro-batches that are. ``processes`` have a card each, and share the model
    by ``parallelism``."""

    model: str
    effective_batch: int = 16
    seq_len: int | None = None
    lengths: list[int] | None = None
    method: str = "full"
    task: str | None = None
    splits: tuple[int, ...] = (1, 4, 16)
    varied: tuple[str, ...] = tuple(row.name for row in KNOBS if row.name not in ("batch_layout", "compile"))
    processes: int = 1
    parallelism: str = "ddp"
    capabilities: tuple[str, ...] = CAPABILITIES

    @property
    def name(self) -> str:
        """Model, method and lengths: what tells the groups apart."""
        shared = f" {self.parallelism} of {self.processes}" if self.processes > 1 else ""
        return f"{self.model} {self.method} {'varied' if self.lengths else 'fixed'}{shared}"


MIXTURE = "benchmarks/prediction/models/small-moe"
"""A mixture of 32 experts of which 4 are taken, of 190 million parameters: named ones fill a whole card."""
FEW = ("activation_checkpointing", "attention")
GROUPS = (
    Group(model="HuggingFaceTB/SmolLM2-135M", seq_len=512),
    Group(model="HuggingFaceTB/SmolLM2-135M", lengths=LENGTHS, varied=("batch_layout", *FEW)),
    Group(model="Qwen/Qwen3-0.6B", seq_len=1024, splits=(1, 8), varied=("optimizer", *FEW), capabilities=("9.0",)),
    Group(model="Qwen/Qwen3-0.6B", lengths=LENGTHS, splits=(4,), varied=("batch_layout",), capabilities=("9.0", "8.0")),
    Group(model="meta-llama/Llama-3.2-1B", seq_len=1024, splits=(1, 4), varied=FEW, capabilities=("9.0",)),
    Group(model="meta-llama/Llama-3.2-1B", seq_len=1024, splits=(1, 4), method="lora", varied=FEW),
    Group(model="meta-llama/Llama-3.2-1B", seq_len=1024, splits=(1, 4), method="qlora", varied=FEW),
    Group(model="answerdotai/ModernBERT-base", seq_len=512, task="sequence-classification", varied=("precision", *FEW)),
    Group(model="openai-community/gpt2", seq_len=512, splits=(1, 8), varied=("precision", *FEW)),
    Group(model="google/gemma-3-1b-pt", seq_len=512, effective_batch=8, splits=(2,), varied=FEW, capabilities=("9.0",)),
    Group(
        model="microsoft/Phi-3-mini-4k-instruct", seq_len=512, effective_batch=8, splits=(2,), method="lora", varied=FEW
    ),
    Group(model=MIXTURE, seq_len=512, effective_batch=8, splits=(2, 8), varied=FEW, capabilities=("9.0",)),
    Group(model="google-t5/t5-small", seq_len=256, splits=(1, 8), varied=("precision", *FEW)),
    Group(model="google/vit-base-patch16-224", splits=(1, 8), varied=("precision", *FEW)),
    Group(model="HuggingFaceTB/SmolLM2-135M", seq_len=512, splits=(1, 4, 8), capabilities=("9.0",), processes=2),
    Group(
        model="HuggingFaceTB/SmolLM2-135M",
        seq_len=512,
        splits=(1, 4, 8),
        capabilities=("9.0",),
        processes=2,
        parallelism="fsdp2",
    ),
    Group(
        model="meta-llama/Llama-3.2-1B",
        seq_len=512,
        splits=(1, 4, 8),
        method="lora",
        varied=("parallelism", *FEW),
        capabilities=("9.0",),
        processes=2,
        parallelism="fsdp2",
    ),
    Group(
        model="Qwen/Qwen3-0.6B",
        seq_len=512,
        splits=(1, 2, 4),
        varied=("parallelism", *FEW),
        capabilities=("9.0",),
        processes=4,
        parallelism="fsdp2",
    ),
)


def run() -> dict[str, Any]:
    """Every group on every card it is for; a table as it goes.

    It takes hours on two cores, so what an earlier run with the same versions and formats found is kept, and each
    group is written down as it ends: delete the file of results to begin anew.
    """
    groups = kept_groups(read_results(FILE)) if FILE.exists() else {}
    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        try:
            build(Path(scratch) / "null-gpu")
        except BuildError as error:
            print(error)
            return {}
        # Every model on the newest card first.
        for capability in CAPABILITIES:
            for number, group in enumerate(GROUPS):
                name = f"{group.name} on {capability}"
                if name in groups or capability not in group.capabilities:
                    continue
                print(f"-- {name}", flush=True)
                if rows := _in_a_process(number, capability, Path(scratch)):
                    groups[name] = rows
                    write_results(FILE.stem, figures_of(groups))
    return figures_of(groups)


def kept_groups(earlier: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Groups of an earlier document that would be the same today; samples of one length are cut in no other way."""
    if earlier["versions"] != about("")["versions"] or earlier["formats"][0] != TRACE_FORMAT:
        return {}
    changed = set()
    if earlier["formats"] != list(FORMATS):
        changed |= {name for name, rows in earlier["groups"].items() if rows[0]["lengths"] != "fixed"}
    if earlier.get("format_of_several") != FORMAT_OF_SEVERAL:
        changed |= {name for name, rows in earlier["groups"].items() if "processes" in rows[0]}
    return {name: rows for name, rows in earlier["groups"].items() if name not in changed}


def figures_of(groups: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The document of results: a summary, and every row."""
    rows = [row for members in groups.values() for row in members]
    formats = {"formats": FORMATS, "format_of_several": FORMAT_OF_SEVERAL}
    return {"where": "on the null GPU", **formats, **summary(rows), "groups": groups}


def _in_a_process(number: int, capability: str, scratch: Path) -> list[dict[str, Any]]:
    answers = scratch / f"{number}-{capability}.json"
    settings = {"NULL_GPU_CAPABILITY": capability, "NULL_GPU_CARDS": str(GROUPS[number].processes)}
    settings |= {"HF_HUB_OFFLINE": "1", "AUTOFIT_HOME": str(scratch / "home")}
    variables = environment(scratch / "null-gpu", {**os.environ, **settings})
    command = [sys.executable, "-m", "benchmarks.prediction.null_gpu", str(number), str(answers)]
    try:
        subprocess.run(command, env=variables, check=True, timeout=MOST_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"group {number} on {capability}: {error}")
    if not answers.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(answers.read_text())
    return [{"capability": capability, **row} for row in rows]


def configs_of(group: Group, space: SearchSpace) -> list[TrainConfig]:
    """The plain configuration at each split, then each value of the varied knobs at the middle one."""
    plain = {row.name: row.reference for row in KNOBS}
    halves = (value for value in ("bf16", "fp16") if value in space.choices["precision"])
    plain["precision"] = next(halves, plain["precision"])
    plain["parallelism"] = group.parallelism

    def at(size: int, **changes: Any) -> TrainConfig:
        split = {"micro_batch_size": size, "accumulation_steps": group.effective_batch // group.processes // size}
        return TrainConfig({**split, **plain, **changes})

    middle = group.splits[len(group.splits) // 2]
    wanted = [at(size) for size in group.splits]
    for name in group.varied:
        for value in space.choices[name]:
            config = made_valid(space, at(middle, **{name: value}), keep=name)
            if config is not None:
                wanted.append(config)
    return list(dict.fromkeys(config for config in wanted if config in space))


def of_group(group: Group) -> list[dict[str, Any]]:
    """Predicted and allocated bytes of each configuration, here and now."""
    request = JobRequest(
        model=group.model,
        effective_batch=group.effective_batch,
        seq_len=group.seq_len,
        lengths=group.lengths,
        method=group.method,
        task=group.task,
        device="cuda:0",
        processes=group.processes,
    )
    record = request.record()
    rows = []
    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        folder = Path(scratch)
        with Workers(record, folder, folder / "kept", lambda sentence: print(sentence, file=sys.stderr)) as workers:
            situation = workers.probe()
            space = SearchSpace(situation, SpaceRequest(numerics="aggressive"))
            configs = configs_of(group, space)
            predictor, runner = workers.predictor(situation), workers.runner(situation)
            predictor.prepare(configs)
            for place, config in enumerate(configs):
                row: dict[str, Any] = {"model": group.model, "method": group.method, "config": dict(config)}
                row["lengths"] = "varied" if group.lengths else "fixed"
                if group.processes > 1:
                    row["processes"] = group.processes
                try:
                    predicted = predictor.predict(config)
                    simulated = predictor.on_allocator(config)
                    row |= {
                        "predicted_allocated": simulated.allocated_bytes,
                        "predicted_reserved": simulated.peak_bytes,
                        "fits": predicted.verdict is Verdict.FITS,
                        "is_exact": not any(row.choice(config[row.name]).not_traced for row in KNOBS),
                    }
                except CannotPredictError as error:
                    row["not_predicted"] = str(error)
                recipe = recipe_for(config, situation)
                if group.lengths:
                    row |= _trained(
                        StepJob(model=record.model, workload=record.workload, recipe=recipe, device="cuda:0"), folder
                    )
                else:
                    result = runner.run(recipe, PLAN, f"row-{place}")
                    row |= {"outcome": result.outcome.value, "reason": result.reason}
                    if result.measurement is not None:
                        memory = result.measurement.memory
                        row |= {"allocated": memory.peak_allocated, "reserved": memory.peak_reserved}
                rows.append(row)
                print(line(row), flush=True)
    return rows


def _trained(job: StepJob, folder: Path) -> dict[str, Any]:
    """Result of a plain training, in a process of its own."""
    path = folder / "training.json"
    write_document(path, job)
    command = [sys.executable, "-m", "benchmarks.prediction.real_training", str(path)]
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, **job.environment},
            timeout=MOST_TRAINING_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        return {"outcome": Outcome.TIMEOUT.value, "reason": str(error)}
    lines = ended.stdout.splitlines()
    if ended.returncode or not lines:
        return {"outcome": Outcome.ERROR.value, "reason": (ended.stderr.splitlines() or [""])[-1]}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    config = row["config"]
    plain = {row.name: row.reference for row in KNOBS}
    changed = " ".join(f"{name}={value}" for name, value in config.items() if name in plain and value != plain[name])
    head = f"{row['model'].split('/')[-1][:20]:20} {row['method']:5} {row['lengths']:6} "
    head += f"{config['micro_batch_size']} x {config['accumulation_steps']} {changed}"
    head += f" in {row['processes']} processes" if "processes" in row else ""
    allocated, reserved = error_of(row, "allocated"), error_of(row, "reserved")
    if allocated is None or reserved is None:
        return f"{head}: {row['outcome']} {row['reason'][:60]} {row.get('not_predicted', '')[:60]}"
    return f"{head}: allocated {allocated:+.2%}, reserved {reserved:+.2%}"


def error_of(row: dict[str, Any], what: str) -> float | None:
    """Predicted over actual bytes less one; None where either is missing."""
    if what not in row or f"predicted_{what}" not in row:
        return None
    return float(row[f"predicted_{what}"] / row[what] - 1)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors of what is traced and of what is bounded or by formula, and which rows miss the targets."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if error_of(row, "allocated") is not None:
            kinds["traced" if row["is_exact"] else "bounded or by formula"].append(row)
    figures: dict[str, Any] = {"configurations": len(rows), "models": len({row["model"] for row in rows})}
    for kind, members in kinds.items():
        figures[kind] = {"rows": len(members)}
        for what in ("allocated", "reserved"):
            errors = [error for row in members if (error := error_of(row, what)) is not None]
            figures[kind][what] = {
                "median_absolute": statistics.median(map(abs, errors)),
                "most_under": min(0.0, *errors),
                "most_over": max(0.0, *errors),
            }
    figures["misses"] = [line(row) for row in kinds["traced"] if _misses(row)]
    figures["out of memory though said to fit"] = sum(
        row["outcome"] == Outcome.OOM.value and row.get("fits", False) for row in rows
    )
    return figures


def _misses(row: dict[str, Any]) -> bool:
    allocated, reserved = error_of(row, "allocated"), error_of(row, "reserved")
    assert allocated is not None and reserved is not None
    return abs(allocated) > ALLOCATED or not -RESERVED_UNDER <= reserved <= RESERVED_OVER


def main(words: list[str]) -> int:
    """One group, in this process: its number and the file for its rows."""
    group = GROUPS[int(words[0])]
    try:
        rows = of_group(group)
    except UserError as error:
        print(f"{group.name}: {error}")
        rows = []
    Path(words[1]).write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
