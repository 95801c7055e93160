"""Operators that CUDA computes with other kernels than a CPU, where that changes what is kept or taken.

* Dropout keeps a mask of one byte an element (``native_dropout``); a CPU keeps the noise in the input's type.
* softmax of float16 into float32 converts inside its kernel (aten/src/ATen/native/SoftMax.cpp).
* The backward pass of softmax takes the product of gradient and output first (``softmax_backward_cuda_out`` in
  native/cuda/SoftMax.cu). Published peaks of eager attention on a T4 hold exactly this one matrix more.
* The backward pass of an embedding adds up in float32, a row for every ten tokens and one for every token that occurs
  (native/cuda/EmbeddingBackwardKernel.cu), where it sorts them. Tokens are taken to be drawn evenly, as trials do.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch

from autofit.trace import SORTED_EMBEDDING_TOKENS
from autofit.tracer.recorder import Recorder

aten = torch.ops.aten


@contextlib.contextmanager
def rules(recorder: Recorder) -> Iterator[None]:
    """Within it, these operators are CUDA's."""
    functional = torch.nn.functional
    dropout, softmax = functional.dropout, functional.softmax

    def fused_dropout(
        input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        if training and 0 < p < 1:
            return torch.native_dropout(input, p, True)[0]
        return dropout(input, p, training, inplace)

    def fused_softmax(input: torch.Tensor, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> torch.Tensor:
        if input.dtype is torch.float16 and dtype is torch.float32:
            return torch._softmax(input, dim, True)
        return softmax(input, dim=dim, _stacklevel=_stacklevel, dtype=dtype)

    functional.dropout, functional.softmax = fused_dropout, fused_softmax
    recorder.kernel_temporaries[aten._softmax_backward_data.default] = _softmax_backward_blocks
    recorder.kernel_temporaries[aten.embedding_dense_backward.default] = _embedding_backward_blocks
    try:
        yield
    finally:
        functional.dropout, functional.softmax = dropout, softmax


def _embedding_backward_blocks(args: tuple[Any, ...]) -> list[int]:
    gradient, indices, rows = args[0], args[1], int(args[2])
    tokens = indices.numel()
    if tokens <= SORTED_EMBEDDING_TOKENS:
        return []
    occurring = rows * (1 - math.exp(-tokens / rows))
    return [tokens * 8, tokens * 8, round(tokens / 10 + occurring) * int(gradient.shape[-1]) * 4]


def _softmax_backward_blocks(args: tuple[Any, ...]) -> list[int]:
    gradient = args[0]
    return [gradient.numel() * gradient.element_size()]
