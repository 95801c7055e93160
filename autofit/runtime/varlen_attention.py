"""Attention over flattened batches without the flash-attn package: torch's own variable-length kernel.

On a GPU this is ``torch.nn.attention.varlen`` (flash attention inside torch, from 2.10 on); elsewhere each
document is attended to on its own, so no memory or time goes to pairs of tokens that may not see each
other. Exports copy this file; it imports torch and transformers and nothing else, for that reason.
"""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import torch
from transformers import AttentionInterface

NAME = "torch_varlen"


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document of a flattened batch.

    ``query`` has shape (1, heads, tokens, head_dim), ``key`` and ``value`` (1, key/value heads, tokens,
    head_dim), ``cu_seq_lens_q`` the documents' ends, from 0. Gives (1, tokens, heads, head_dim). Raises
    ValueError for what the kernel cannot do.
    """
    if cu_seq_lens_q is None:
        raise ValueError("torch_varlen attention needs batches of DataCollatorWithFlattening(return_flash_attn_kwargs)")
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise ValueError("torch_varlen attention supports neither softcap nor sinks")
    if not query.is_cuda:
        return _document_by_document(query, key, value, dropout, scaling, sliding_window, cu_seq_lens_q), None
    if dropout:
        raise ValueError("torch_varlen attention does not support dropout on a GPU")
    return _varlen_kernel(query, key, value, scaling, sliding_window, cu_seq_lens_q, max_length_q), None


def _varlen_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    ends: torch.Tensor,
    longest: int,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Under autocast rotary embeddings leave queries and keys in float32, and the kernel has no autocast rule.
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else value.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    groups = query.shape[1] // key.shape[1]
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    options: dict[str, Any] = {"scale": scaling}
    known = inspect.signature(varlen_attn).parameters
    if "window_size" in known:
        options["window_size"] = (-1 if sliding_window is None else sliding_window - 1, 0)
    elif sliding_window is None or longest <= sliding_window:
        options["is_causal"] = True
    else:
        raise ValueError(f"torch {torch.__version__} has no variable-length attention with a sliding window")
    if "enable_gqa" in known:
        options["enable_gqa"] = groups > 1
    else:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    ends = ends.to(torch.int32)
    attended: torch.Tensor = varlen_attn(query, key, value, ends, ends, longest, longest, **options)
    return attended.unsqueeze(0)


def _document_by_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
    ends: torch.Tensor,
) -> torch.Tensor:
    found = []
    bounds = ends.tolist()
    for start, end in itertools.pairwise(bounds):
        here = slice(start, end)
        mask = None
        if sliding_window is not None and end - start > sliding_window:
            distance = torch.arange(end - start)[:, None] - torch.arange(end - start)[None, :]
            mask = (distance >= 0) & (distance < sliding_window)
        found.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, here],
                key[:, :, here],
                value[:, :, here],
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(found, dim=2).transpose(1, 2)


def register() -> None:
    """Make ``attn_implementation="torch_varlen"`` known to transformers. A name without a mask of its own gets none."""
    AttentionInterface.register(NAME, varlen_attention)
