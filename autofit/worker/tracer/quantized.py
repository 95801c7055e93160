"""A model whose linear layers hold 4-bit weights without data, as bitsandbytes keeps them.

bitsandbytes' own weights are a tensor class, which cannot be one without data at the same time; so its layers are given
plain byte tensors with the same quantization state beside them. What runs in a step is its own code.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.integrations.bitsandbytes import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from autofit.job.tasks import task_named
from autofit.knobs.recipe import Recipe
from autofit.predict.trace_request import TraceRequest
from autofit.worker.build import build_model, config_for, finished

BLOCK = 64
NESTED_BLOCK = 256
"""Weights that share a scale, and scales that share one, by bitsandbytes' defaults (functional.quantize_4bit)."""


def build_quantized(job: TraceRequest) -> Any:
    """The model of a job whose recipe quantizes, with its adapters; to be called within the dataless mode."""
    recipe: Recipe = job.recipe
    config = config_for(job)
    task = task_named(job.workload.task)
    model = build_model(config, task, job.device, recipe.model_kwargs, trust_remote_code=job.trust_remote_code)
    settings = recipe.quantization or {}
    compute = getattr(torch, settings["bnb_4bit_compute_dtype"])
    quantize(model, compute, nested=bool(settings["bnb_4bit_use_double_quant"]))
    model.is_loaded_in_4bit = True
    return finished(model, recipe)


def quantize(model: torch.nn.Module, compute: torch.dtype, *, nested: bool) -> None:
    """Put 4-bit layers in the place of linear ones, but for those that transformers leaves (the head, mostly)."""
    kept = get_keys_to_not_convert(model)
    for name, module in list(model.named_modules()):
        is_linear = type(module) in (torch.nn.Linear, Conv1D)
        if not is_linear or any(name == each or name.startswith(f"{each}.") for each in kept):
            continue
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, _layer(module, compute, nested=nested))


def _layer(module: Any, compute: torch.dtype, *, nested: bool) -> torch.nn.Module:
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Linear4bit

    shape = module.weight.shape if isinstance(module, torch.nn.Linear) else module.weight.t().shape
    number = shape.numel()
    blocks = -(-number // BLOCK)
    state = QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8 if nested else torch.float32),
        shape=torch.Size(shape),
        code=torch.empty(16),
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=compute,
        offset=torch.empty(()) if nested else None,
        state2=QuantState(
            absmax=torch.empty(-(-blocks // NESTED_BLOCK)),
            code=torch.empty(256),
            blocksize=NESTED_BLOCK,
            dtype=torch.float32,
        )
        if nested
        else None,
    )
    made = Linear4bit.__new__(Linear4bit)
    torch.nn.Module.__init__(made)
    made.in_features, made.out_features = shape[1], shape[0]
    made.weight = torch.nn.Parameter(torch.empty((number + 1) // 2, 1, dtype=torch.uint8), requires_grad=False)
    made.weight.quant_state = made.quant_state = state
    # PEFT reads how the layer was quantized off its weight.
    made.weight.compress_statistics, made.weight.quant_type = nested, "nf4"
    made.bias = module.bias
    made.compute_dtype, made.compute_type_is_set = compute, True
    made.quant_storage = torch.uint8
    made.support_avx512bf16_for_cpu = False
    return made


def gemm_blocks(args: tuple[Any, ...]) -> list[int]:
    """Blocks that ``bitsandbytes::gemm_4bit`` takes and frees: the weight in 16 or 32 bits, as the product reads it."""
    inputs, shape = args[0], args[2]
    return [int(shape[0]) * int(shape[1]) * inputs.element_size()]
