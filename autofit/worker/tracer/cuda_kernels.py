"""Operators that CUDA computes with other kernels than a CPU, where that changes what is kept or taken.

* Dropout keeps a mask of one byte an element (``native_dropout``), taken before its output (native/cuda/Dropout.cu); a
  CPU keeps the noise in the input's type.
* softmax of float16 into float32 converts inside its kernel (aten/src/ATen/native/SoftMax.cpp).
* The backward pass of softmax takes the product of gradient and output first (``softmax_backward_cuda_out`` in
  native/cuda/SoftMax.cu). Published peaks of eager attention on a T4 hold exactly this one matrix more.
* The backward pass of an embedding adds up in float32, a row for every ten tokens and one for every token that occurs
  (native/cuda/EmbeddingBackwardKernel.cu), where it sorts them. Tokens are taken to be drawn evenly, as trials do.
* A sum over many rows, such as the gradient of a bias, is split among thread blocks that meet in a buffer
  (``setReduceConfig`` in native/cuda/Reduce.cuh). A convolution's bias has such a gradient, too.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch

from autofit.predict.trace import SORTED_EMBEDDING_TOKENS
from autofit.worker.tracer.patched import patched
from autofit.worker.tracer.recorder import Recorder

aten = torch.ops.aten


_THREADS = 512
_FEWEST_VALUES, _MOST_VALUES = 16, 256
"""Of a sum's threads in a block, and of the values that one thread adds up before the work is split further."""


@contextlib.contextmanager
def rules(capability: tuple[int, int], recorder: Recorder) -> Iterator[None]:
    """Within it, these operators are CUDA's."""
    of_torch = torch.nn.functional
    dropout, softmax = of_torch.dropout, of_torch.softmax

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

    recorder.last_outputs_first.add(aten.native_dropout.default)
    recorder.kernel_temporaries[aten._softmax_backward_data.default] = _softmax_backward_blocks
    recorder.kernel_temporaries[aten.embedding_dense_backward.default] = _embedding_backward_blocks
    resident_threads = processors_of(capability) * (2048 if capability >= (8, 0) else 1024)
    recorder.kernel_temporaries[aten.sum.dim_IntList] = functools.partial(_sum_blocks, resident_threads)
    convolution = functools.partial(_convolution_backward_blocks, resident_threads)
    recorder.kernel_temporaries[aten.convolution_backward.default] = convolution
    with patched(of_torch, dropout=fused_dropout, softmax=fused_softmax):
        yield


def processors_of(capability: tuple[int, int]) -> int:
    """Multiprocessors of an A100, or of a T4 for older cards; most kernels take little more on cards with more."""
    return 108 if capability >= (8, 0) else 40


def _embedding_backward_blocks(args: tuple[Any, ...]) -> list[int]:
    gradient, indices, rows = args[0], args[1], int(args[2])
    tokens = indices.numel()
    if tokens <= SORTED_EMBEDDING_TOKENS:
        return []
    occurring = rows * (1 - math.exp(-tokens / rows))
    return [tokens * 8, tokens * 8, round(tokens / 10 + occurring) * int(gradient.shape[-1]) * 4]


def _sum_blocks(resident_threads: int, args: tuple[Any, ...]) -> list[int]:
    """Buffer and semaphores of a sum over all dimensions but the last; others are not split where they are large."""
    tensor, dims = args[0], args[1]
    if (
        tensor.dim() < 2
        or not dims
        or not tensor.is_contiguous()
        or sorted(dim % tensor.dim() for dim in dims) != [*range(tensor.dim() - 1)]
    ):
        return []
    outputs = int(tensor.shape[-1])
    return sum_blocks(tensor.numel() // max(1, outputs), outputs, resident_threads)


def _convolution_backward_blocks(resident_threads: int, args: tuple[Any, ...]) -> list[int]:
    """The gradient in the kernel's own order and, with a bias, the sum that is its gradient."""
    gradient, bias_sizes = args[0], args[3]
    channels = int(gradient.shape[1])
    copied = gradient.numel() * gradient.element_size()
    return [copied, *(sum_blocks(gradient.numel() // channels, channels, resident_threads) if bias_sizes else ())]


def sum_blocks(rows: int, outputs: int, resident_threads: int) -> list[int]:
    """Bytes of the buffer and of the semaphores with which ``rows`` rows of ``outputs`` numbers are added up in
    float32; nothing where every thread block adds up its own."""
    if not rows or not outputs:
        return []
    vector = math.gcd(4, outputs)
    most = _THREADS // vector
    columns, lines = (min(most, 1 << (size.bit_length() - 1)) for size in (outputs // vector, rows))
    width = min(columns, 32)
    height = min(lines, most // width)
    width = min(columns, most // height)
    if not (rows >= height * _FEWEST_VALUES or rows >= _MOST_VALUES):
        return []
    values = -(-rows // height)
    grid = -(-(outputs // vector) // width)
    target = resident_threads // (width * height)
    if values < _MOST_VALUES or grid > target:
        return []
    blocks = max(min(-(-target // grid), -(-values // _FEWEST_VALUES)), -(-values // _MOST_VALUES))
    return [4 * outputs * blocks * width * vector, 4 * grid] if blocks > 1 else []


def _softmax_backward_blocks(args: tuple[Any, ...]) -> list[int]:
    gradient = args[0]
    return [gradient.numel() * gradient.element_size()]
