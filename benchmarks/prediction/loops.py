"""Training loops other than the Trainer's, as published runs used them, traced without data for a GPU."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from autofit.device.cuda import CUBLAS_THREADS, CUBLAS_WORKSPACE
from autofit.predict.caching_allocator import SMALLEST_BLOCK
from autofit.predict.trace import Phase, StepTrace
from autofit.worker.tracer.cuda_attention import efficient_attention
from autofit.worker.tracer.dataless import Dataless
from autofit.worker.tracer.quantized import quantize
from autofit.worker.tracer.recorder import Recorder
from autofit.worker.tracer.step import weights_left_as_they_are
from autofit.worker.tracer.target import Target


@contextlib.contextmanager
def _dataless(target: Target) -> Iterator[Recorder]:
    recorder = Recorder()
    mode = Dataless(recorder)
    with target.rules(mode, recorder), mode:
        yield recorder


def peak_of(trace: StepTrace) -> int:
    """Bytes alive at most since FORWARD began, each block rounded as the CUDA allocator does it, with workspaces."""
    sizes = [-(-size // SMALLEST_BLOCK) * SMALLEST_BLOCK for size in trace.sizes]
    changes = [sizes[event - 1] if event > 0 else -sizes[-event - 1] for event in trace.events]
    alive = list(itertools.accumulate(changes))
    return max(alive[trace.phase_ends[Phase.BEFORE] - 1 :]) + CUBLAS_THREADS * CUBLAS_WORKSPACE


def adapter_loop(build: Callable[[], Any], row: dict[str, Any]) -> StepTrace:
    """fitcheck-llm's measuring loop: one warm-up step, then one whose peak counts; the output is kept all the while.

    Neither accelerate nor clipping nor autocast; what is not in 4 bits is cast to float32 where the base is
    quantized; attention is memory-efficient with keys and values copied for every head, or eager.
    """
    from peft import LoraConfig, get_peft_model

    lora, quantization = row["lora"], row.get("quantization")
    with _dataless(Target(kind="cuda", compute_capability=(7, 5))) as recorder, _expanded_attention():
        with weights_left_as_they_are():
            model = build()
            if quantization is not None:
                quantize(model, getattr(torch, quantization["compute"]), nested=quantization["double"])
                for weight in model.parameters():
                    if weight.dtype is torch.float16:
                        weight.data = weight.data.float()
        model.config.use_cache = False
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
        adapter = LoraConfig(
            r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora["targets"], lora_dropout=lora["dropout"]
        )
        model = get_peft_model(model, adapter)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        model.train()
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        batch = torch.zeros((row["micro_batch"], row["seq_len"]), dtype=torch.int64)
        for number in range(2):
            if number == 1:
                recorder.begin(Phase.FORWARD)
            optimizer.zero_grad(set_to_none=True)
            out = model(input_ids=batch, labels=batch)
            out.loss.backward()
            optimizer.step()
        recorder.end()
        return recorder.trace(row["micro_batch"], row["seq_len"])


def sum_loop(build: Callable[[], Any], row: dict[str, Any]) -> StepTrace:
    """Hugging Face's tables of attention: forward, the sum of the logits, backward; no optimizer.

    The last iteration's output is alive during the next forward pass.
    """
    with _dataless(Target(kind="cuda", compute_capability=(8, 0))) as recorder:
        with weights_left_as_they_are():
            model = build()
        model.train()
        shape = (row["micro_batch"], row["seq_len"])
        inputs = {
            "input_ids": torch.zeros(shape, dtype=torch.int64),
            "attention_mask": torch.ones(shape, dtype=torch.int64),
        }
        for number in range(3):
            if number == 2:
                recorder.begin(Phase.FORWARD)
            model.zero_grad()
            outputs = model(**inputs)
            loss = outputs.logits.sum()
            loss.backward()
        recorder.end()
        return recorder.trace(row["micro_batch"], row["seq_len"])


@contextlib.contextmanager
def _expanded_attention() -> Iterator[None]:
    functional = torch.nn.functional
    original = functional.scaled_dot_product_attention

    def expanded(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, **others: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        return efficient_attention(query, key, value, None, dropout_p, True, others.get("scale"))

    functional.scaled_dot_product_attention = expanded
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original
