"""Part 3: peaks that other people measured on GPUs and published, against the same steps traced without a GPU."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from autofit.device.cuda import CUBLAS_THREADS, CUBLAS_WORKSPACE
from autofit.job.lengths import SampleLengths
from autofit.job.method import Adapter
from autofit.job.models import ModelSource
from autofit.job.workload import Workload
from autofit.knobs.recipe import Recipe
from autofit.predict.timeline import StepBuilder
from autofit.predict.trace import StepTrace
from autofit.predict.trace_request import TraceRequest
from autofit.worker.tracer.batch import trace_request
from benchmarks.prediction.live_bytes import quiet
from benchmarks.prediction.loops import adapter_loop, peak_of, sum_loop

ROWS = Path(__file__).with_name("published_runs.json")

LEFT_OUT = {
    "fms-mistral-full-kernels-b16": "the peak lies in the backward pass of kernels (unsloth, Liger) not traced here",
    "fms-mistral-lora-kernels-4.48.1": "fused cross-entropy and norms of another package make the peak",
    "fms-mistral-qlora-kernels-4.48.1": "fused cross-entropy and norms of another package make the peak",
    "fms-mistral-lora-kernels-4.45.2": "the peak lies in a layer with fused norms, rotary embeddings and adapters",
    "fms-mistral-qlora-kernels-4.45.2": "the peak lies in a layer with fused norms, rotary embeddings and adapters",
    "fms-santacoder-full-plain": "the peak hangs on the 16-bit loss of transformers 4.48's GPTBigCode",
    "fms-santacoder-full-kernels": "the peak hangs on the 16-bit loss of transformers 4.48's GPTBigCode",
    "fms-santacoder-qlora-plain": "the peak hangs on the 16-bit loss of transformers 4.48's GPTBigCode",
    "fms-santacoder-qlora-kernels": "fused kernels of another package, and GPTBigCode's older loss",
    "hf-sdpa-opt-eager": "OPT's eager attention kept one more matrix of scores before transformers 4.48",
}
"""Groups of rows that cannot be compared, and why."""
GUESSED = ("hf-sdpa-bert-eager", "hf-sdpa-bert-sdpa", "hf-sdpa-opt-sdpa")
"""Rows whose source does not say which head the model had and how the loop was adapted: compared, and counted apart."""
OLD_LOSS = ("fms-mistral-lora-plain", "fms-mistral-qlora-baseline", "fms-mistral-qlora-accelerated")
"""Rows whose peak is in the loss of transformers 4.48: compared with that loss put back, and counted apart."""


def run() -> dict[str, Any]:
    """Predict every comparable row; print a table by group, and the summary."""
    transformers.logging.set_verbosity_error()
    content = json.loads(ROWS.read_text())
    rows = [_compare(row, content["models"]) for row in content["runs"]]
    for row in rows:
        mark = f"{row['error']:+8.2%}" if row["error"] is not None else "        "
        print(f"{mark}  {row['id']}  {row['left_out']}")
    summary = {
        "compared": _summary([row for row in rows if row["kind"] == "compared"]),
        "configuration partly guessed": _summary([row for row in rows if row["kind"] == "guessed"]),
        "with the loss of transformers 4.48 put back": _summary([row for row in rows if row["kind"] == "old loss"]),
        "left out": sum(row["kind"] == "left out" for row in rows),
    }
    groups = sorted({row["group"] for row in rows if row["error"] is not None})
    by_group = {group: _summary([row for row in rows if row["group"] == group]) for group in groups}
    for group, figures in by_group.items():
        print(f"{group:45} {figures}")
    print(json.dumps(summary, indent=2))
    return {"summary": summary, "groups": by_group, "rows": rows}


def _rule(row: dict[str, Any], config: dict[str, Any]) -> int:
    """The usual rule: 16 bytes for each trained parameter, 2 for each frozen one, half a byte in 4 bits.

    accelerate's estimate ("training using Adam": four times the model in float32) is this rule for full training.
    """
    with torch.device("meta"):
        model = _build(config)
    parameters: int = sum(weight.numel() for weight in model.parameters())
    lora = row.get("lora")
    if lora is None:
        return 16 * parameters
    trained: int = sum(
        lora["rank"] * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in lora["targets"]
    )
    return round(parameters * (0.5 if row["method"] == "qlora" else 2)) + 16 * trained


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [row["error"] for row in rows]
    if not errors:
        return {"rows": 0}
    return {
        "rows": len(errors),
        "mean_absolute_error": statistics.fmean(map(abs, errors)),
        "worst": max(errors, key=abs),
        "worst_under_prediction": min(0.0, *errors),
        "mean_absolute_error_of_the_rule": statistics.fmean(abs(row["rule_error"]) for row in rows),
    }


def _compare(row: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    made = {"id": row["id"], "group": row["group"], "published_bytes": row["allocated_bytes"], "left_out": ""}
    if row["group"] in LEFT_OUT:
        return {**made, "kind": "left out", "left_out": LEFT_OUT[row["group"]], "predicted_bytes": None, "error": None}
    with quiet():
        predicted = _predict(row, models[row["model"]])
    kind = "old loss" if row["group"] in OLD_LOSS else "guessed" if row["group"] in GUESSED else "compared"
    return {
        **made,
        "kind": kind,
        "predicted_bytes": predicted,
        "error": predicted / row["allocated_bytes"] - 1,
        "rule_error": _rule(row, models[row["model"]]) / row["allocated_bytes"] - 1,
    }


def _predict(row: dict[str, Any], config: dict[str, Any]) -> int:
    trace = trace_of(row, config)
    if is_of_a_trainer(row):
        return StepBuilder(trace).steady_step(1).peak_bytes + CUBLAS_THREADS * CUBLAS_WORKSPACE
    return peak_of(trace)


def is_of_a_trainer(row: dict[str, Any]) -> bool:
    """True if the row's source ran Hugging Face's Trainer, and no loop of its own."""
    return bool(row["id"].startswith("fms"))


def trace_of(row: dict[str, Any], config: dict[str, Any]) -> StepTrace:
    """The published step, traced without data."""
    if is_of_a_trainer(row):
        with _loss_of_4_48() if row["group"] in OLD_LOSS else contextlib.nullcontext():
            return _trainer(row, config)

    def build() -> Any:
        return _build(config, dtype=torch.float16, attn_implementation=row["attention"])

    return adapter_loop(build, row) if row["id"].startswith("fitcheck") else sum_loop(build, row)


def _build(config: dict[str, Any], **keywords: Any) -> Any:
    keys = {name: value for name, value in config.items() if name not in ("model_type", "dtype")}
    made = transformers.AutoConfig.for_model(config["model_type"], **keys)
    masked = config["model_type"] == "bert"
    auto = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    return auto.from_config(made, **keywords)


def _trainer(row: dict[str, Any], config: dict[str, Any]) -> StepTrace:
    """A row of fms-acceleration: the Trainer, packed rows of one length, clipping, foreach AdamW, flash attention."""
    lora = row.get("lora")
    source = ModelSource(name=row["model"], origin="published", config=config)
    method = {"full": "full", "lora": "lora", "qlora": "qlora"}[row["method"]]
    workload = Workload(
        model=row["model"],
        model_digest="published",
        task="causal-lm",
        lengths=SampleLengths.fixed(row["seq_len"]),
        effective_batch=1,
        method=method,
        adapter=None if lora is None else Adapter(rank=lora["rank"], alpha=lora["alpha"], dropout=lora["dropout"]),
    )
    quantization = row.get("quantization")
    recipe = Recipe(
        training_arguments={
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "logging_nan_inf_filter": False,
            "optim": "adamw_torch",
            "use_cpu": True,
            "bf16": row["autocast"] == "bf16",
            "activation_checkpointing": True,
            "activation_checkpointing_kwargs": {"use_reentrant": False},
        },
        model_kwargs={"dtype": "bfloat16", "attn_implementation": "flash_attention_2"},
        environment={},
        processes=1,
        adapter=None
        if lora is None
        else {
            "r": lora["rank"],
            "lora_alpha": lora["alpha"],
            "target_modules": lora["targets"],
            "lora_dropout": lora["dropout"],
            "task_type": "CAUSAL_LM",
        },
        quantization=None
        if quantization is None
        else {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": quantization["double"],
            "bnb_4bit_compute_dtype": quantization["compute"],
        },
    )
    request = TraceRequest(
        model=source,
        workload=workload,
        recipe=recipe,
        micro_batch=(row["seq_len"],) * row["micro_batch"],
        path="",
        target="cuda",
    )
    norms = quantization is not None and "norm weights float32" in quantization["others"]
    with _norms_in_float32() if norms else contextlib.nullcontext():
        document = trace_request(request)
    if document.trace is None:
        raise RuntimeError(f"{row['id']}: {document.refusal}")
    return document.trace


@contextlib.contextmanager
def _loss_of_4_48() -> Iterator[None]:
    """The loss as transformers had it then: the logits in float32, all but the last copied, one cross-entropy."""
    from transformers.loss import loss_utils

    def loss(logits: Any, labels: Any, vocab_size: int, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        logits = logits.float()
        shifted = logits[..., :-1, :].contiguous().view(-1, vocab_size)
        wanted = labels[..., 1:].contiguous().view(-1)
        reduction = "sum" if num_items_in_batch is not None else "mean"
        found = torch.nn.functional.cross_entropy(shifted, wanted, ignore_index=-100, reduction=reduction)
        return found / num_items_in_batch if reduction == "sum" else found

    before = loss_utils.LOSS_MAPPING["ForCausalLM"]
    loss_utils.LOSS_MAPPING["ForCausalLM"] = loss
    try:
        yield
    finally:
        loss_utils.LOSS_MAPPING["ForCausalLM"] = before


@contextlib.contextmanager
def _norms_in_float32() -> Iterator[None]:
    """The model as the rows without the accelerated plugin left it: norms in float32, everything else in 16 bits."""
    from autofit.worker.tracer import quantized

    build = quantized.build_quantized

    def with_norms(job: Any) -> Any:
        model = build(job)
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.data = weight.data.float()
        return model

    quantized.build_quantized = with_norms
    try:
        yield
    finally:
        quantized.build_quantized = build
