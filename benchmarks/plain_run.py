"""Train with an exported file in a process of its own that knows nothing of autofit, and say what came of it.

The process imports the file that ``--export training-arguments=`` wrote, builds the model from its configuration
(random weights: nothing is fetched), makes samples of random tokens, and calls ``trainer.train()``.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autofit.export.training_arguments import serialize
from autofit.job.lengths import SampleLengths
from autofit.job.situation import Situation
from autofit.job.tasks import task_named
from autofit.study.ranking import Ranked
from autofit.study.result import Result

MOST_SECONDS = 1500.0
LIMIT_CARD = """
def limit_card(memory_bytes):
    \"\"\"Leave this process what a card of this size would.\"\"\"
    total = torch.cuda.get_device_properties(0).total_memory
    torch.zeros(1, device="cuda")
    taken = total - torch.cuda.mem_get_info(0)[0] - torch.cuda.memory_reserved(0)
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, memory_bytes - taken) / total), 0)
"""
_SCRIPT = """
import importlib.util, json, sys, time
job = json.load(open(sys.argv[1]))
spec = importlib.util.spec_from_file_location("train_args", job["exported"])
exported = importlib.util.module_from_spec(spec)
spec.loader.exec_module(exported)
import torch, transformers
from transformers import AutoConfig, Trainer, TrainerCallback

on_gpu = torch.cuda.is_available() and not exported.TRAINING_ARGUMENTS.get("use_cpu")
@LIMIT_CARD@
if on_gpu and job["memory_bytes"]:
    limit_card(job["memory_bytes"])
torch.manual_seed(job["seed"])
values = dict(job["config"])
config = AutoConfig.for_model(values.pop("model_type"), **values)
model = getattr(transformers, job["auto_class"]).from_config(config, **exported.MODEL_KWARGS)
if job["classes"]:
    model.config.pad_token_id = model.config.pad_token_id or 0
if not job["counts_items"]:
    model.accepts_loss_kwargs = False
if hasattr(exported, "LORA"):
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(model, LoraConfig(**exported.LORA))
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()

def sample(length):
    tokens = torch.randint(1, config.get_text_config().vocab_size, (length,))
    labels = torch.randint(0, 2, ()) if job["classes"] else tokens
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}

ends = []
class Clock(TrainerCallback):
    def on_step_end(self, args, state, control, **others):
        if on_gpu:
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

class InOrder(Trainer):
    def _get_train_sampler(self, *args, **others):
        if job["in_order"]:
            return torch.utils.data.SequentialSampler(self.train_dataset)
        return super()._get_train_sampler(*args, **others)

arguments = exported.training_arguments(sys.argv[2], max_steps=job["steps"], report_to=[], save_strategy="no",
                                        logging_steps=10**6, disable_tqdm=True, seed=job["seed"])
InOrder(model=model, args=arguments, train_dataset=[sample(length) for length in job["lengths"]],
        data_collator=exported.data_collator(), callbacks=[Clock()]).train()
took = [later - earlier for earlier, later in zip(ends, ends[1:])]
peaks = [torch.cuda.max_memory_allocated(0), torch.cuda.max_memory_reserved(0)] if on_gpu else [None, None]
retries = torch.cuda.memory_stats(0).get("num_alloc_retries", 0) if on_gpu else None
print("ANSWER", json.dumps({"steps": took, "allocated": peaks[0], "reserved": peaks[1], "retries": retries}))
""".replace("@LIMIT_CARD@", LIMIT_CARD)


@dataclass(frozen=True, kw_only=True)
class PlainRun:
    """Seconds of each optimizer step after the first; peaks in bytes on a GPU. ``problem`` is why, where it failed."""

    steps: tuple[float, ...] = ()
    peak_allocated: int | None = None
    peak_reserved: int | None = None
    alloc_retries: int | None = None
    problem: str = ""


def drawn(lengths: SampleLengths, number: int, seed: int) -> list[int]:
    """Lengths of ``number`` samples, drawn from the histogram."""
    return random.Random(seed).choices(lengths.lengths, weights=lengths.counts, k=number)


def exported(result: Result, ranked: Ranked, path: Path) -> Path:
    """The file that exporting this configuration would write."""
    alone = tuple(trial for trial in result.trials if trial.config == ranked.trial.config)
    path.write_text(serialize(replace(result, trials=alone)).text, encoding="utf-8")
    return path


def one_device(situation: Situation) -> dict[str, str]:
    """The environment in which a plain script trains on this device alone: several would be DataParallel."""
    device = situation.device
    visible = "" if device.kind == "cpu" else str(device.index)
    return {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}


def plain_run(
    result: Result,
    arguments: Path,
    lengths: Sequence[int],
    folder: Path,
    *,
    steps: int,
    seed: int = 0,
    in_order: bool = False,
    memory_bytes: int | None = None,
) -> PlainRun:
    """Train ``steps`` optimizer steps over samples of these lengths, in this order where ``in_order``.

    ``memory_bytes`` is the card to emulate on a larger one.
    """
    task = task_named(result.record.workload.task)
    job: dict[str, Any] = {
        "exported": str(arguments),
        "config": result.record.model.config,
        "auto_class": task.auto_class,
        "classes": task.labels == "class",
        "counts_items": result.situation.model.counts_items,
        "lengths": list(lengths),
        "steps": steps,
        "seed": seed,
        "in_order": in_order,
        "memory_bytes": memory_bytes,
    }
    document = folder / "plain-run.json"
    document.write_text(json.dumps(job))
    command = [sys.executable, "-c", _SCRIPT, str(document), str(folder / "out")]
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=MOST_SECONDS, env=one_device(result.situation)
        )
    except subprocess.TimeoutExpired:
        return PlainRun(problem=f"it took more than {MOST_SECONDS:.0f} s")
    if "ANSWER" not in finished.stdout:
        return PlainRun(problem=(finished.stderr.strip().splitlines() or ["it ended without a word"])[-1][:300])
    answer = json.loads(finished.stdout.rsplit("ANSWER", 1)[1])
    return PlainRun(
        steps=tuple(answer["steps"]),
        peak_allocated=answer["allocated"],
        peak_reserved=answer["reserved"],
        alloc_retries=answer["retries"],
    )
