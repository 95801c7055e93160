"""The number of graphs that torch.compile made during a trial."""

from __future__ import annotations

from torch._dynamo.utils import counters


def compiled_graphs() -> int:
    """Number of graphs that this process has compiled; one that is compiled again for other shapes counts again."""
    return int(counters["stats"]["unique_graphs"])
