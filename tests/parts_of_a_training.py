"""Parts of a training, as a user's own module has them: a module that is none of transformers', its data, its loss."""

from __future__ import annotations

from typing import Any

import torch


class TwoLayers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 1)

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"prediction": self.second(torch.relu(self.first(features)))[:, 0]}


def build_model() -> TwoLayers:
    torch.manual_seed(0)
    return TwoLayers()


def samples() -> list[dict[str, Any]]:
    return [{"features": [float(number % 7)] * 8, "labels": float(number % 3)} for number in range(96)]


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {
        "features": torch.tensor([row["features"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def squared(outputs: dict[str, torch.Tensor], labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    return torch.nn.functional.mse_loss(outputs["prediction"], labels)
