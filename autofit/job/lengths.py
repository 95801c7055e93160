"""Lengths of a training set's samples, and the frozen list of samples that every trial is timed on."""

from __future__ import annotations

import bisect
import itertools
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from autofit.errors import UserError

FROZEN_BATCHES = 512
"""Effective batches in the frozen list, where an epoch has as many. At 512 the mean padded length is known to
about CV / sqrt(512): some 1 % for chat-like lengths, and every configuration shares what error there is."""
FEWEST_FROZEN_BATCHES = 64
"""A smaller epoch is repeated, each time in another order, up to this many."""


@dataclass(frozen=True, kw_only=True)
class SampleLengths:
    """A histogram: distinct lengths in tokens, ascending, and how many samples have each.

    Random sampling makes samples of one length exchangeable, so the histogram says all that matters. ``cut_samples``
    were longer than the longest allowed and lost ``cut_tokens`` together.
    """

    lengths: tuple[int, ...]
    counts: tuple[int, ...]
    cut_samples: int = 0
    cut_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.lengths:
            raise UserError("There is not one sample with a token in it.")
        assert len(self.lengths) == len(self.counts), "a count for every length"
        if self.lengths[0] < 1:
            raise UserError(f"A sample needs at least 1 token, not {self.lengths[0]}.")
        assert min(self.counts) >= 1, "lengths without a sample are left out"
        assert all(a < b for a, b in itertools.pairwise(self.lengths)), "distinct and ascending"

    @classmethod
    def fixed(cls, length: int) -> SampleLengths:
        """Every sample has ``length`` tokens; how many samples there are is not known and does not matter."""
        return cls(lengths=(length,), counts=(1,))

    @classmethod
    def of(cls, lengths: Iterable[int], *, longest: int | None = None) -> SampleLengths:
        """Count ``lengths``, each cut to ``longest``; empty samples are left out. Raises UserError for none."""
        counter: Counter[int] = Counter()
        cut_samples = cut_tokens = 0
        for length in lengths:
            if length < 1:
                continue
            kept = length if longest is None else min(length, longest)
            counter[kept] += 1
            cut_samples += kept < length
            cut_tokens += length - kept
        ordered = sorted(counter.items())
        return cls(
            lengths=tuple(length for length, _ in ordered),
            counts=tuple(count for _, count in ordered),
            cut_samples=cut_samples,
            cut_tokens=cut_tokens,
        )

    @property
    def all_equal(self) -> bool:
        """True if there is nothing to pad."""
        return len(self.lengths) == 1

    @property
    def num_samples(self) -> int:
        """Number of samples that were counted."""
        return sum(self.counts)

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return self.lengths[-1]

    @property
    def mean(self) -> float:
        """Tokens per sample."""
        return sum(length * count for length, count in zip(self.lengths, self.counts, strict=True)) / self.num_samples

    def quantile(self, share: float) -> int:
        """The smallest length that at least ``share`` of the samples do not exceed."""
        cumulative = list(itertools.accumulate(self.counts))
        place = bisect.bisect_left(cumulative, share * cumulative[-1] - 1e-9)
        return self.lengths[min(place, len(self.lengths) - 1)]

    def next_shorter(self, length: int) -> int | None:
        """The longest length below ``length``; None where no sample is shorter."""
        place = bisect.bisect_left(self.lengths, length)
        return self.lengths[place - 1] if place else None

    def longest_samples(self, number: int) -> list[int]:
        """The ``number`` longest samples, longest first; fewer samples are repeated."""
        found: list[int] = []
        for length, count in zip(reversed(self.lengths), reversed(self.counts), strict=True):
            found += [length] * min(count, number - len(found))
            if len(found) == number:
                return found
        return list(itertools.islice(itertools.cycle(found), number))

    def frozen_samples(self, effective_batch: int, seed: int) -> list[int]:
        """Lengths of the samples of the frozen list, one effective batch after another, in sampling order.

        The first FROZEN_BATCHES effective batches of an epoch in random order without replacement, as the
        Trainer's sampler draws it; a shorter epoch is repeated in other orders. An epoch's incomplete last
        batch is left out: it is not the effective batch that was asked for. Raises UserError where the
        set has fewer samples than one effective batch.
        """
        if self.all_equal:
            return [self.longest] * effective_batch
        if self.num_samples < effective_batch:
            raise UserError(
                f"The data has {self.num_samples} samples, fewer than one effective batch of {effective_batch}; "
                "give more data or a smaller --effective-batch."
            )
        order = random.Random(seed)
        cumulative = list(itertools.accumulate(self.counts))
        epoch = self.frozen_epoch(effective_batch)
        frozen: list[int] = []
        while len(frozen) < FEWEST_FROZEN_BATCHES * effective_batch:
            places = order.sample(range(self.num_samples), epoch)
            frozen += [self.lengths[bisect.bisect_right(cumulative, place)] for place in places]
        return frozen

    def frozen_epoch(self, effective_batch: int) -> int:
        """Samples of the frozen list before one may come again: whole effective batches of one epoch."""
        if self.all_equal:
            return effective_batch
        return min(self.num_samples // effective_batch, FROZEN_BATCHES) * effective_batch

    def describe(self) -> str:
        """One line: count, median, p90, p99, longest."""
        if self.all_equal:
            return f"every sample {self.longest} tokens{self._cut()}"
        return (
            f"{self.num_samples:,} samples: median {self.quantile(0.5)} tokens, p90 {self.quantile(0.9)}, "
            f"p99 {self.quantile(0.99)}, longest {self.longest}{self._cut()}"
        )

    def _cut(self) -> str:
        """Tokens lost to truncation, as a sentence's end; empty where it took nothing."""
        if not self.cut_samples:
            return ""
        share = self.cut_tokens / (self.cut_tokens + self.mean * self.num_samples)
        samples = "sample" if self.cut_samples == 1 else "samples"
        return f" ({self.cut_samples:,} {samples} cut to {self.longest}, {share:.1%} of all tokens dropped)"
