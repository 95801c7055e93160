"""What torch.compile did during a trial: how many graphs it made."""

from __future__ import annotations

from torch._dynamo.utils import counters


def compiled_graphs() -> int:
    """How many graphs this process has compiled; one that is compiled again for other shapes counts again."""
    return int(counters["stats"]["unique_graphs"])
