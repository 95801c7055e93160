"""Collated batches, whoever's collator made them: their tensors, shape, tokens and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from autofit.study.measurement import BatchShape


def tensors_of(batch: Any) -> Iterator[torch.Tensor]:
    """Every tensor in a collated batch, however it is nested."""
    if torch.is_tensor(batch):
        yield batch
    elif hasattr(batch, "values"):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from tensors_of(value)


def length_of(batch: Any) -> int:
    """Tokens of a batch of one sample, padding not counted; 1 where it has no length, as an image."""
    mask: Any = batch.get("attention_mask") if hasattr(batch, "get") else None
    shape = shape_of_batch(batch)
    # Of several rows, as a chosen and a rejected answer, the padding between them is part of the sample.
    if shape.rows == 1 and torch.is_tensor(mask) and mask.ndim == 2:
        return max(1, int(mask.sum()))
    return shape.rows * shape.length


def shape_of_batch(batch: Any) -> BatchShape:
    """Rows and length of a collated batch, by its tokens, or by the first tensor that has more than one dimension."""
    tokens: Any = batch.get("input_ids") if hasattr(batch, "get") else None
    found = [tokens] if torch.is_tensor(tokens) else [each for each in tensors_of(batch) if each.ndim > 1]
    if not found:
        first = next(tensors_of(batch), None)
        return BatchShape(rows=1 if first is None or first.ndim == 0 else first.shape[0], length=1)
    # Of sounds and the like the last dimension is the one that varies; images have one size.
    rows, length = found[0].shape[0], found[0].shape[-1]
    return BatchShape(rows=rows, length=length if found[0].ndim < 4 else 1)


def bytes_of(batch: Any) -> int:
    """Bytes of a collated micro-batch on the device."""
    return sum(each.numel() * each.element_size() for each in tensors_of(batch))
