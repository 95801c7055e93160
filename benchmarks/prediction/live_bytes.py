"""Part 1: bytes alive in each phase of a traced step against a real step of the real Trainer on this CPU."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import transformers

from autofit.job.lengths import SampleLengths
from autofit.job.method import Adapter
from autofit.job.models import ModelSource
from autofit.job.situation import Limits, Situation
from autofit.job.tasks import task_named
from autofit.job.workload import Workload
from autofit.knobs import completed
from autofit.knobs.recipe import Recipe, recipe_for
from autofit.knobs.train_config import TrainConfig
from autofit.predict.families import traceable
from autofit.predict.timeline import StepBuilder
from autofit.predict.trace import Phase
from autofit.predict.trace_request import TraceRequest
from autofit.trial.protocol import ProbeJob
from autofit.worker.build import build_trial_model
from autofit.worker.probe import probe
from autofit.worker.tracer.batch import trace_request
from benchmarks.prediction.real_step import real_phase_peaks

LENGTH, ROWS = 64, 4
DECODER = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4,
           "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 128}  # fmt: skip

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("causal-lm", DECODER),
    "qwen3": ("causal-lm", {**DECODER, "head_dim": 32}),
    "gpt2": ("causal-lm", {"n_embd": 128, "n_layer": 4, "n_head": 4, "vocab_size": 1000, "n_positions": 128}),
    "gemma2": ("causal-lm", {**DECODER, "head_dim": 32, "sliding_window": 32}),
    "gpt_neox": ("causal-lm", {**DECODER, "intermediate_size": 512}),
    "phi3": ("causal-lm", {**DECODER, "pad_token_id": 0}),
    "opt": ("causal-lm", {"hidden_size": 128, "ffn_dim": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
                          "vocab_size": 1000, "max_position_embeddings": 128, "word_embed_proj_dim": 128}),
    "qwen3_moe": ("causal-lm", {**DECODER, "head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2,
                                "moe_intermediate_size": 128}),
    "bert": ("masked-lm", {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4,
                           "num_attention_heads": 4, "vocab_size": 1000, "max_position_embeddings": 128}),
    "modernbert": ("masked-lm", {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 4,
                                 "num_attention_heads": 4, "vocab_size": 1000, "max_position_embeddings": 128,
                                 "pad_token_id": 0, "global_attn_every_n_layers": 2, "local_attention": 32}),
    "t5": ("seq2seq-lm", {"d_model": 128, "d_ff": 512, "d_kv": 32, "num_layers": 3, "num_heads": 4,
                          "vocab_size": 1000, "decoder_start_token_id": 0}),
    "vit": ("image-classification", {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4,
                                     "num_attention_heads": 4, "image_size": 64, "patch_size": 8}),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison; ``layout`` other than the usual has samples of several lengths."""

    architecture: str
    attention: str = "sdpa"
    checkpointing: str = "off"
    precision: str = "fp32"
    optimizer: str = "adamw_torch_fused"
    method: str = "full"
    layout: str = "dynamic_padding"
    accumulation: int = 2
    lengths: tuple[int, ...] = (LENGTH,) * ROWS

    @property
    def name(self) -> str:
        parts = [self.architecture, self.attention, self.checkpointing, self.precision, self.optimizer, self.method]
        return " ".join([*parts, self.layout, f"x{self.accumulation}"])


def all_cases() -> Iterator[Case]:
    """Every architecture with every attention, checkpointing and precision; accumulation 1 and 2 in turn."""
    for number, architecture in enumerate(ARCHITECTURES):
        attentions = ("eager",) if architecture == "t5" else ("sdpa", "eager")
        ladder = ("off", "every_layer") if architecture == "t5" else ("off", "every_layer", "every_2nd")
        settings = itertools.product(attentions, ladder, ("fp32", "bf16", "pure_bf16"))
        for place, (attention, rung, precision) in enumerate(settings):
            yield Case(
                architecture=architecture,
                attention=attention,
                checkpointing=rung,
                precision=precision,
                accumulation=1 + (place + number) % 2,
            )
        for precision in ("fp32", "bf16"):
            yield Case(architecture=architecture, precision=precision, method="lora")
        if ARCHITECTURES[architecture][0] != "image-classification":
            for rung in ("off", "every_layer"):
                yield Case(architecture=architecture, checkpointing=rung, lengths=(LENGTH, 50, 40, 33))
    for architecture in ("llama", "qwen3", "gpt2"):
        for precision in ("fp32", "bf16"):
            yield Case(architecture=architecture, precision=precision, layout="packed", lengths=(40, 40, 20, 20))
    yield Case(architecture="llama", precision="bf16", method="qlora")
    for optimizer in ("adamw_torch", "adafactor", "adamw_8bit", "lion_8bit"):
        for precision in ("fp32", "pure_bf16"):
            yield Case(architecture="llama", optimizer=optimizer, precision=precision)


def situation_of(case: Case) -> tuple[Situation, ModelSource]:
    """The case's model and workload, as a search has them."""
    task, keys = ARCHITECTURES[case.architecture]
    source = ModelSource(name=case.architecture, origin="benchmark", config={"model_type": case.architecture, **keys})
    workload = Workload(
        model=source.name,
        model_digest=source.digest,
        task=task,
        lengths=SampleLengths.of(case.lengths) if task != "image-classification" else SampleLengths.fixed(1),
        effective_batch=len(case.lengths) * case.accumulation,
        method=case.method,
        adapter=None if case.method == "full" else Adapter(rank=8, alpha=16),
    )
    found = probe(ProbeJob(model=source, workload=workload, device="cpu"))
    if found.refusal or found.device is None or found.libraries is None or found.model is None:
        raise RuntimeError(found.refusal)
    limits = Limits(memory_bytes=found.device.memory_bytes, headroom=0.0)
    return (
        Situation(workload=workload, device=found.device, libraries=found.libraries, model=found.model, limits=limits),
        source,
    )


def request_of(case: Case) -> tuple[TraceRequest, Recipe]:
    """The traced request, and the recipe that is run."""
    situation, source = situation_of(case)
    config = TrainConfig(
        completed(
            {
                "micro_batch_size": len(case.lengths),
                "accumulation_steps": case.accumulation,
                "precision": case.precision,
                "activation_checkpointing": case.checkpointing,
                "attention": case.attention,
                "batch_layout": case.layout,
                "optimizer": case.optimizer,
            }
        )
    )
    recipe = recipe_for(config, situation)
    lengths = case.lengths if situation.workload.sequence_length > 1 else (1,) * len(case.lengths)
    request = TraceRequest(
        model=source,
        workload=situation.workload,
        recipe=traceable(recipe, optimizer=case.optimizer),
        micro_batch=lengths,
        path="",
        truth=situation.workload.lengths.all_equal and case.layout == "dynamic_padding",
    )
    return request, recipe


def compare(case: Case) -> dict[str, Any]:
    """Predicted and real bytes of each phase of a steady step."""
    request, recipe = request_of(case)
    document = trace_request(request)
    if document.trace is None:
        return {"case": case.name, "refusal": document.refusal}
    predicted = StepBuilder(document.trace, inputs_ahead=1).steady_step(case.accumulation).phase_peaks()
    gc.collect()
    real = real_phase_peaks(
        lambda: build_trial_model(msgspec.structs.replace(request, recipe=recipe)),
        replace(recipe, training_arguments={**recipe.training_arguments, "use_cpu": True}),
        task_named(request.workload.task),
        request.micro_batch,
        case.accumulation,
    )
    phases = (Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE)
    errors = {phase.name.lower(): predicted[phase] / real[phase] - 1 for phase in phases}
    return {
        "case": case.name,
        "predicted": {phase.name.lower(): predicted[phase] for phase in phases},
        "real": {phase.name.lower(): real[phase] for phase in phases},
        "errors": errors,
        "trace_seconds": document.seconds,
    }


def run(only: str = "") -> dict[str, Any]:
    """Compare every case (whose name holds ``only``); print a line for each that is off, and the summary."""
    transformers.logging.set_verbosity_error()
    rows = []
    for case in all_cases():
        if only not in case.name:
            continue
        with quiet():
            row = compare(case)
        rows.append(row)
        worst = max((abs(error) for error in row.get("errors", {}).values()), default=float("nan"))
        print(f"{worst:9.4%}  {case.name}  {row.get('refusal', '')}", flush=True)
    return with_summary(rows)


def with_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of a comparison behind their median and largest error, which are printed."""
    errors = [abs(error) for row in rows for error in row.get("errors", {}).values()]
    summary = {
        "cases": len(rows),
        "refused": sum("refusal" in row for row in rows),
        "median_error": statistics.median(errors) if errors else None,
        "largest_error": max(errors, default=None),
    }
    print(summary)
    return {"summary": summary, "rows": rows}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The Trainer prints its figures, the profiler (C++) its own lines on stderr."""
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.dup2(saved, 2)
        os.close(sink)
        os.close(saved)
