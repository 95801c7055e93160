"""Training loops other than the Trainer's, as published runs used them, traced without data for a GPU."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

from autofit.predict.allocator import SMALLEST_BLOCK
from autofit.predict.fixed_costs import CUBLAS_THREADS, CUBLAS_WORKSPACE
from autofit.tracer.cuda_attention import _efficient
from autofit.tracer.dataless import Dataless
from autofit.tracer.quantized import quantize
from autofit.tracer.recorder import Recorder
from autofit.tracer.step import _weights_left_as_they_are
from autofit.tracer.target import Target


class LiveBytes:
    """Bytes alive, each block rounded as the CUDA allocator does it; a Listener of the dataless mode."""

    def __init__(self) -> None:
        self.live = self.peak = 0
        self._watches: dict[int, Any] = {}
        self.kernel_temporaries: dict[Any, Callable[[tuple[Any, ...]], list[int]]] = {}

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._watches:
                size = -(-storage.nbytes() // SMALLEST_BLOCK) * SMALLEST_BLOCK
                self._add(size)
                self._watches[key] = weakref.ref(storage, lambda watch, key=key, size=size: self._gone(key, size))
        if func in self.kernel_temporaries:
            extra = sum(self.kernel_temporaries[func](args))
            self._add(extra)
            self.live -= extra

    def forget_peak(self) -> None:
        """Begin to look for the peak from now on."""
        self.peak = self.live

    def _add(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        del self._watches[key]
        self.live -= size


@contextlib.contextmanager
def _dataless(target: Target) -> Iterator[LiveBytes]:
    listener, recorder = LiveBytes(), Recorder()
    mode = Dataless(listener)
    with target.rules(mode, recorder), mode:
        listener.kernel_temporaries = recorder.kernel_temporaries
        yield listener


def adapter_loop(build: Callable[[], Any], row: dict[str, Any]) -> int:
    """fitcheck-llm's measuring loop: one warm-up step, then one whose peak counts; the output is kept all the while.

    Neither accelerate nor clipping nor autocast; what is not in 4 bits is cast to float32 where the base is
    quantized; attention is memory-efficient with keys and values copied for every head, or eager.
    """
    from peft import LoraConfig, get_peft_model

    lora, quantization = row["lora"], row.get("quantization")
    with _dataless(Target(kind="cuda", compute_capability=(7, 5))) as bytes_alive, _expanded_attention():
        with _weights_left_as_they_are():
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
        for _ in range(2):
            bytes_alive.forget_peak()
            optimizer.zero_grad(set_to_none=True)
            out = model(input_ids=batch, labels=batch)
            out.loss.backward()
            optimizer.step()
        return bytes_alive.peak + CUBLAS_THREADS * CUBLAS_WORKSPACE


def sum_loop(build: Callable[[], Any], row: dict[str, Any]) -> int:
    """Hugging Face's tables of attention: forward, the sum of the logits, backward; no optimizer.

    The last iteration's output is alive during the next forward pass.
    """
    with _dataless(Target(kind="cuda", compute_capability=(8, 0))) as bytes_alive:
        with _weights_left_as_they_are():
            model = build()
        model.train()
        shape = (row["micro_batch"], row["seq_len"])
        inputs = {
            "input_ids": torch.zeros(shape, dtype=torch.int64),
            "attention_mask": torch.ones(shape, dtype=torch.int64),
        }
        for _ in range(3):
            bytes_alive.forget_peak()
            model.zero_grad()
            outputs = model(**inputs)
            loss = outputs.logits.sum()
            loss.backward()
        return bytes_alive.peak + CUBLAS_THREADS * CUBLAS_WORKSPACE


@contextlib.contextmanager
def _expanded_attention() -> Iterator[None]:
    functional = torch.nn.functional
    original = functional.scaled_dot_product_attention

    def expanded(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, **others: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        return _efficient(query, key, value, None, dropout_p, True, others.get("scale"))

    functional.scaled_dot_product_attention = expanded
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original
