"""How much of the worst micro-batch a typical one is, from the histogram of lengths alone.

The trial forms real micro-batches with the Trainer's own samplers; this stands in for that where nothing is run.
"""

from __future__ import annotations

import numpy as np

from autofit.lengths import SampleLengths

PACKED_WELL = 0.95
"""Share of a packed row that best-fit packing fills: an estimate."""


def expected_share(layout: str, rows: int, lengths: SampleLengths) -> float:
    """Padded tokens of a mean micro-batch of ``rows`` samples, over those of one of the longest samples only."""
    if lengths.all_equal or layout == "fixed_padding":
        return 1.0
    longest, mean = lengths.longest, lengths.mean
    if layout in ("flattened", "group_by_length", "batch_rebalance"):
        # Grouped and rebalanced batches come close to no padding where an effective batch is large.
        return mean / longest
    if layout == "packed":
        return min(1.0, mean / longest / PACKED_WELL)
    counts = np.array(lengths.counts, dtype=float)
    cumulative = np.cumsum(counts) / counts.sum()
    is_the_longest = np.diff(np.concatenate([[0.0], cumulative**rows]))
    return float((is_the_longest * np.array(lengths.lengths)).sum()) / longest


def rows_of_longest(layout: str, rows: int, lengths: SampleLengths) -> float:
    """The worst micro-batch of ``rows`` samples, as a number of samples of the longest length."""
    if layout not in ("flattened", "packed") or lengths.all_equal:
        return float(rows)
    samples = lengths.longest_samples(rows)
    if layout == "flattened":
        return sum(samples) / lengths.longest
    return float(_packed_rows(samples, lengths.longest))


def _packed_rows(samples: list[int], length: int) -> int:
    """How many rows best-fit decreasing finds, as the collator that packs them does; ``samples`` longest first."""
    free: list[int] = []
    for sample in samples:
        fitting = [place for place, left in enumerate(free) if left >= sample]
        if fitting:
            free[min(fitting, key=free.__getitem__)] -= sample
        else:
            free.append(length - sample)
    return len(free)
