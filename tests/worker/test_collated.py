"""Collated batches of any make: their shape, tokens and bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autofit.study.measurement import BatchShape
from autofit.worker.collated import bytes_of, length_of, shape_of_batch


@pytest.mark.parametrize(
    ("batch", "rows", "length"),
    [
        ({"input_ids": torch.zeros(2, 9)}, 2, 9),
        ({"tokens": torch.zeros(3, 5), "target": torch.zeros(3, 5)}, 3, 5),
        ({"pixel_values": torch.zeros(4, 3, 8, 8)}, 4, 1),
        ({"features": torch.zeros(2, 80, 50)}, 2, 50),
        ({"labels": torch.zeros(6)}, 6, 1),
        ((torch.zeros(2, 3), torch.zeros(2)), 2, 3),
    ],
)
def test_the_shape_of_any_batch_is_found(batch: Any, rows: int, length: int) -> None:
    assert shape_of_batch(batch) == BatchShape(rows=rows, length=length)


def test_padding_is_not_counted_as_tokens_of_a_sample() -> None:
    batch = {"input_ids": torch.zeros(1, 8), "attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0]])}
    assert length_of(batch) == 3


def test_of_several_rows_for_a_sample_all_count() -> None:
    assert length_of({"input_ids": torch.zeros(2, 8), "attention_mask": torch.ones(2, 8)}) == 16


def test_bytes_of_nested_batches_are_added_up() -> None:
    assert bytes_of({"a": torch.zeros(2, 2), "b": [torch.zeros(3)], "c": {"d": torch.zeros(1)}}) == 4 * (4 + 3 + 1)
