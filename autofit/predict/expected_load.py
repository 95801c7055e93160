"""How much of the worst micro-batch a typical one is, from the histogram of lengths alone.

The trial forms real micro-batches with the Trainer's own samplers; this stands in for that where nothing is run.
"""

from __future__ import annotations

from functools import cache

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


def rows_of_longest(layout: str, rows: int, accumulation: int, lengths: SampleLengths) -> float:
    """The worst micro-batch of ``rows`` samples, as a number of samples of the longest length."""
    if lengths.all_equal:
        return float(rows)
    if layout == "batch_rebalance":
        return _rebalanced_rows(rows, accumulation, lengths)
    if layout not in ("flattened", "packed"):
        return float(rows)
    samples = lengths.longest_samples(rows)
    if layout == "flattened":
        return sum(samples) / lengths.longest
    return float(_packed_rows(samples, lengths.longest))


@cache
def _rebalanced_rows(rows: int, accumulation: int, lengths: SampleLengths) -> float:
    """The same where an effective batch is cut into groups of equal cost: short samples come together in many rows.

    The Trainer's sampler moves one sample at a time between groups until no move helps any more
    (transformers/trainer_pt_utils.py, ``BatchRebalanceSampler``); here it is the least cost that no group has to pass.
    """
    effective_batch = rows * accumulation
    samples = lengths.frozen_samples(effective_batch, seed=0)
    most_tokens = 0
    for start in range(0, len(samples), effective_batch):
        batch = sorted(samples[start : start + effective_batch], reverse=True)
        low, high = 0.0, sum(map(_cost, batch))
        while high - low > 1e-3 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if len(_groups_up_to(batch, middle)) <= accumulation else (middle, high)
        most_tokens = max(most_tokens, *(len(group) * group[0] for group in _groups_up_to(batch, high)))
    return most_tokens / lengths.longest


def _cost(length: int) -> float:
    """Of a sample in a group that is padded to ``length``, as the sampler counts it."""
    return length + 0.001 * length**2


def _groups_up_to(batch: list[int], most: float) -> list[list[int]]:
    """Neighbours of ``batch`` (longest first) together, as many as cost no more than ``most``, one at least."""
    groups: list[list[int]] = []
    for sample in batch:
        if groups and (len(groups[-1]) + 1) * _cost(groups[-1][0]) <= most:
            groups[-1].append(sample)
        else:
            groups.append([sample])
    return groups


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
