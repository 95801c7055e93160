"""The tensors that an optimizer keeps between steps."""

from __future__ import annotations

from typing import Any

import torch


def state_tensors(optimizer: Any) -> list[torch.Tensor]:
    """Those of an optimizer, or of the one that accelerate wrapped."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return [value for state in inner.state.values() for value in state.values() if torch.is_tensor(value)]
