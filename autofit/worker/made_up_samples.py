"""Samples made up to the lengths of the workload: random token ids or pixels, with the task's labels."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from autofit.job.tasks import MASKED_SHARE, Task

# Tokens are drawn once and read from different places: values matter (zeros multiply faster, 13 % seen), their
# order does not.
POOL_ROWS = 8
DISTINCT_IMAGES = 16


class SamplesByLength(Dataset[dict[str, torch.Tensor]]):  # type: ignore[misc]
    """A data set whose index is the length wanted: ``samples[57]`` has 57 tokens.

    Each sample has what a tokenizer and a data set give: ``input_ids`` and ``attention_mask`` of shape
    (length,), int64, and the task's ``labels``; or ``pixel_values`` (channels, height, width), float32, and
    a class. Token ids are drawn over the vocabulary.
    """

    def __init__(self, task: Task, config: Any, longest: int, seed: int) -> None:
        self._task = task
        self._longest = longest
        self._generator = torch.Generator().manual_seed(seed)
        self._num_labels = max(2, int(getattr(config, "num_labels", 2) or 2))
        self._taken = 0
        if task.reads == "images":
            size = config.image_size
            height, width = (size, size) if isinstance(size, int) else size
            shape = (DISTINCT_IMAGES, int(getattr(config, "num_channels", 3)), height, width)
            self._pool = torch.randn(shape, generator=self._generator)
        else:
            vocabulary_size = int(config.get_text_config().vocab_size)
            self._pool = torch.randint(0, vocabulary_size, (POOL_ROWS * longest,), generator=self._generator)

    def __len__(self) -> int:
        return self._longest + 1

    def __getitem__(self, length: int) -> dict[str, torch.Tensor]:
        if self._task.reads == "images":
            self._taken += 1
            return {"pixel_values": self._pool[self._taken % DISTINCT_IMAGES], "labels": self._class()}
        input_ids = self._tokens(length)
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones(length, dtype=torch.int64),
            "labels": self._labels(input_ids),
        }

    def _labels(self, input_ids: torch.Tensor) -> torch.Tensor:
        length = len(input_ids)
        if self._task.labels == "class":
            return self._class()
        if self._task.labels == "classes":
            return torch.randint(0, self._num_labels, (length,), generator=self._generator)
        if self._task.labels == "answer":
            return self._tokens(length)
        if self._task.labels == "masked":
            hidden = torch.rand(length, generator=self._generator) >= MASKED_SHARE
            hidden[length // 2] = False
            return input_ids.masked_fill(hidden, -100)
        return input_ids

    def _class(self) -> torch.Tensor:
        return torch.randint(0, self._num_labels, (), generator=self._generator)

    def _tokens(self, length: int) -> torch.Tensor:
        start = self._taken % (len(self._pool) - length + 1)
        self._taken += length
        return self._pool[start : start + length]
