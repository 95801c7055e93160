"""Attention on CUDA: the kernel that torch takes there, and the memory that kernel allocates for itself.

scaled_dot_product_attention chooses among flash, memory-efficient and plain mathematics
(aten/src/ATen/native/transformers/cuda/sdp_utils.cpp): flash for 16-bit inputs without a mask, head dimensions up
to 256, compute capability 8.0 or higher; memory-efficient for the others, unless key and value heads are shared,
which it takes from torch 2.14 on (pytorch PR 191085); else the mathematics, which keeps the whole matrix of scores.
cuDNN's attention, which newer versions prefer on Hopper and Blackwell, keeps what flash keeps and is taken for it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from autofit.predict.trace_request import has_flash_attention
from autofit.worker.tracer.patched import patched
from autofit.worker.tracer.recorder import Recorder

aten = torch.ops.aten
NAME, FLEX = "autofit_traced", "autofit_traced_flex"
"""Names of the stand-ins for flash attention's kernels, and for flex_attention's."""
_HALF = (torch.bfloat16, torch.float16)
_EFFICIENT_TAKES_SHARED_HEADS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)


@contextlib.contextmanager
def rules(capability: tuple[int, int], recorder: Recorder) -> Iterator[None]:
    """Within it, scaled_dot_product_attention takes CUDA's kernels, and transformers knows ``NAME`` and ``FLEX``."""
    functional = torch.nn.functional
    original = functional.scaled_dot_product_attention

    def chosen(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        query, key, value = map(_as_autocast_has_it, (query, key, value))
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = _as_autocast_has_it(attn_mask)
        shares_heads = enable_gqa and query.shape[1] != key.shape[1]
        can_flash = (
            attn_mask is None and query.dtype in _HALF and query.shape[-1] <= 256 and has_flash_attention(capability)
        )
        if can_flash:
            return _flash(query, key, value, dropout_p, is_causal, scale)
        if shares_heads and not _EFFICIENT_TAKES_SHARED_HEADS:
            return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=True)
        return efficient_attention(query, key, value, attn_mask, dropout_p, is_causal, scale)

    AttentionInterface.register(NAME, _flash_attention)
    AttentionInterface.register(FLEX, _flex_attention)
    recorder.kernel_temporaries[aten._scaled_dot_product_flash_attention_backward.default] = _flash_backward_blocks
    efficient = functools.partial(_efficient_backward_blocks, capability)
    recorder.kernel_temporaries[aten._scaled_dot_product_efficient_attention_backward.default] = efficient
    # Without a choice of its own the CPU's kernel would be taken for what is left to torch.
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        patched(functional, scaled_dot_product_attention=chosen),
    ):
        yield


def _as_autocast_has_it(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else tensor


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, causal: bool, scale: float | None
) -> torch.Tensor:
    width = query.shape[-1]
    if width % 8:
        # The kernel's tiles are eight wide (pad_last_dim in attention.cpp).
        scale = width**-0.5 if scale is None else scale
        query, key, value = (torch.nn.functional.pad(each, (0, 8 - width % 8)) for each in (query, key, value))
    out: torch.Tensor = aten._scaled_dot_product_flash_attention.default(
        query, key, value, dropout, causal, False, scale=scale
    )[0]
    return out[..., :width] if width % 8 else out


def efficient_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> torch.Tensor:
    if mask is not None:
        if mask.dtype is torch.bool:
            # A mask of yes and no becomes one of numbers, in every layer (convert_boolean_attn_mask).
            mask = torch.empty(mask.shape, dtype=query.dtype)
        mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    out: torch.Tensor = aten._scaled_dot_product_efficient_attention.default(
        query, key, value, mask, query.requires_grad, dropout, causal, scale=scale
    )[0]
    return out


def _flash_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Flash attention as transformers calls an attention: gives (batch, tokens, heads, head_dim)."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else value.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    causal = bool(getattr(module, "is_causal", True))
    return _flash(query, key, value, dropout, causal, scaling).transpose(1, 2), None


def _flex_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """flex_attention: keeps what flash attention keeps, and heads that are no power of two share no keys and values
    (transformers/integrations/flex_attention.py)."""
    heads = query.shape[1]
    if heads & (heads - 1):
        key, value = (repeat_kv(each, heads // each.shape[1]) for each in (key, value))
    return _flash_attention(module, query, key, value, *args, **kwargs)


def _flash_backward_blocks(args: tuple[Any, ...]) -> list[int]:
    """Blocks that flash attention's backward kernel takes and frees: float32 sums of the query's gradient and of the
    softmax, and of keys and values for every query head where heads share them (csrc/flash_attn, mha_bwd)."""
    query, key = args[1], args[2]
    batch, heads, length, width = query.shape
    rounded = -(-length // 128) * 128
    wide = -(-width // 32) * 32
    blocks = [batch * rounded * heads * wide * 4, batch * heads * rounded * 4]
    if key.shape[1] != heads:
        blocks += [batch * key.shape[2] * heads * width * query.element_size()] * 2
    return blocks


def _efficient_backward_blocks(capability: tuple[int, int], args: tuple[Any, ...]) -> list[int]:
    """Blocks of memory-efficient attention's backward kernel, taken and freed: the sums of output and gradient, and
    float32 tiles in which the query's gradient is added up, a lock and a counter beside each (``workspace_elements_gq``
    in native/transformers/cuda/mem_eff_attention/kernel_backward.h)."""
    query = args[1]
    batch, heads, length, width = query.shape
    tile = 128 if width > 64 and capability >= (8, 0) else 64
    tiles = -(-length // tile) * -(-width // 64)
    return [batch * heads * length * 4, batch * heads * tiles * (tile * 64 + 4) * 4]
