"""The tensors that an optimizer keeps between steps."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves


def state_tensors(optimizer: Any) -> list[torch.Tensor]:
    """Those of an optimizer, or of the one that accelerate wrapped."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return [each for each in tree_leaves(list(inner.state.values())) if torch.is_tensor(each)]
