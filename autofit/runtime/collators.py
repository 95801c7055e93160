"""Data collators without a tokenizer. Exports copy this file's classes, so that what was measured is what trains.

Samples are dicts of 1-D sequences (``input_ids`` ...) and scalars (a sample's class). They need
torch and nothing else, for that reason.
"""

from __future__ import annotations

from typing import Any

import torch


class PadRight:
    """Pads on the right: every sequence to the longest of the micro-batch, or to ``length`` where it is given."""

    def __init__(self, pad_token_id: int = 0, length: int | None = None) -> None:
        self.fill = {"input_ids": pad_token_id, "labels": -100}
        self.length = length

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {}
        for key in samples[0]:
            values = [torch.as_tensor(sample[key]) for sample in samples]
            if values[0].ndim != 1:  # a class, or an image: nothing to pad
                batch[key] = torch.stack(values)
                continue
            length = self.length or max(len(value) for value in values)
            rows = torch.full((len(values), length), self.fill.get(key, 0), dtype=values[0].dtype)
            for row, value in zip(rows, values, strict=True):
                row[: len(value)] = value
            batch[key] = rows
        return batch


class PackRows:
    """Packs a micro-batch's samples into as few rows of ``length`` tokens as best-fit decreasing finds.

    Positions restart with every sample and there is no attention mask: that is how transformers tells the
    samples of a row apart. No sample learns to predict the first token of the next.
    """

    def __init__(self, length: int, pad_token_id: int = 0) -> None:
        self.length = length
        self.pad_token_id = pad_token_id

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = self.rows([len(sample["input_ids"]) for sample in samples])
        width = max(sum(len(samples[place]["input_ids"]) for place in row) for row in rows)
        batch = {
            "input_ids": torch.full((len(rows), width), self.pad_token_id),
            "labels": torch.full((len(rows), width), -100),
            "position_ids": torch.zeros((len(rows), width), dtype=torch.int64),
        }
        for number, row in enumerate(rows):
            end = 0
            for place in row:
                tokens = torch.as_tensor(samples[place]["input_ids"])
                here = slice(end, end + len(tokens))
                end += len(tokens)
                batch["input_ids"][number, here] = tokens
                batch["labels"][number, here] = torch.as_tensor(samples[place].get("labels", tokens))
                batch["labels"][number, here.start] = -100
                batch["position_ids"][number, here] = torch.arange(len(tokens))
            batch["position_ids"][number, end:] = torch.arange(width - end)
        return batch

    def rows(self, lengths: list[int]) -> list[list[int]]:
        """Samples that share a row: lists of places in ``lengths``."""
        rows: list[list[int]] = []
        free: list[int] = []
        for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
            fitting = [row for row in range(len(rows)) if free[row] >= lengths[place]]
            if fitting:
                row = min(fitting, key=lambda row: free[row])
            else:
                row = len(rows)
                rows.append([])
                free.append(self.length)
            rows[row].append(place)
            free[row] -= lengths[place]
        return rows


def make_collator(name: str, keywords: dict[str, Any], pad_token_id: int) -> Any:
    """The data collator that a recipe names: a class of this file, or transformers' for flattened batches."""
    if name == "DataCollatorWithFlattening":
        from transformers import DataCollatorWithFlattening

        return DataCollatorWithFlattening(**keywords)
    return {"PadRight": PadRight, "PackRows": PackRows}[name](pad_token_id=pad_token_id, **keywords)
