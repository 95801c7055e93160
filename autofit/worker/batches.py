"""Micro-batches that a recipe makes of the workload's samples: all of them, the worst, and the few to time.

A micro-batch is a tuple of sample lengths, or of places in a program's own data set; nothing here touches a device.
The Trainer's own samplers form the micro-batches, and the shapes are what the recipe's collator makes of them.
"""

from __future__ import annotations

import itertools
import statistics
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import BatchSampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from autofit.job.lengths import SampleLengths
from autofit.job.workload import Workload
from autofit.knobs.recipe import Recipe
from autofit.predict.micro_batches import MOST_IN_ORDER, FilledShape, MicroBatches
from autofit.runtime.collators import PackRows
from autofit.study.measurement import BatchShape

try:
    from transformers.trainer_pt_utils import BatchRebalanceSampler
except ImportError:  # transformers 5.16 and older, where a program of one's own alone can be searched
    BatchRebalanceSampler = None

MicroBatch = tuple[int, ...]
FloatArray = npt.NDArray[np.float64]
MOST_TIMED_SHAPES = 3


def shape_of(micro_batch: MicroBatch, collator: str, collator_kwargs: dict[str, Any]) -> BatchShape:
    """Rows and padded length of a collated micro-batch."""
    if collator == "DataCollatorWithFlattening":
        return BatchShape(rows=1, length=sum(micro_batch))
    if collator == "PackRows":
        rows = PackRows(collator_kwargs["length"]).rows(list(micro_batch))
        width = max(sum(micro_batch[place] for place in row) for row in rows)
        return BatchShape(rows=len(rows), length=width)
    return BatchShape(rows=len(micro_batch), length=collator_kwargs.get("length") or max(micro_batch))


def together(shapes: Sequence[BatchShape]) -> BatchShape:
    """Shape of what several processes run at once: rows of all of them, the longest length."""
    return BatchShape(rows=sum(shape.rows for shape in shapes), length=max(shape.length for shape in shapes))


def cut(samples: list[int], recipe: Recipe, seed: int, epoch: int | None = None) -> list[list[list[int]]]:
    """Places in ``samples`` (lengths in sampling order) by effective batch and micro-batch, cut as the Trainer does.

    ``epoch`` is how many samples there are before they come again; all of them where it is None.
    """
    micro, accumulation = recipe.micro_batch_size * recipe.processes, recipe.accumulation_steps
    strategy = recipe.training_arguments.get("train_sampling_strategy", "random")
    if strategy == "batch_rebalance":
        micro_batches = list(BatchRebalanceSampler(samples, micro * accumulation, 1, accumulation, shuffle=False))
    else:
        order = list(range(len(samples)))
        if strategy == "group_by_length":
            generator = torch.Generator().manual_seed(seed)
            order = []
            # The Trainer groups within an epoch; a repeated one must not lend it samples.
            for start in range(0, len(samples), epoch or len(samples)):
                part = samples[start : start + (epoch or len(samples))]
                grouped = get_length_grouped_indices(part, micro * accumulation, generator=generator)
                order += [start + place for place in grouped]
        micro_batches = [order[start : start + micro] for start in range(0, len(order), micro)]
    return [micro_batches[start : start + accumulation] for start in range(0, len(micro_batches), accumulation)]


def bit_reversed(length: int) -> list[int]:
    """The places of a list in the order of the bit-reversed (van der Corput) sequence, beginning in the middle: every
    beginning of it is spread over the whole list."""
    bits = max(1, (length - 1).bit_length())
    places = (int(f"{number:0{bits}b}"[::-1], 2) for number in itertools.chain(range(1, 2**bits), (0,)))
    return [place for place in places if place < length]


class Batches(ABC):
    """Effective batches in micro-batches: what a trial runs, and what follows from their shapes.

    ``effective_batches`` are those that every configuration of a study is timed on, ``worst`` the micro-batches that
    need most memory. ``processes`` is how many of them share each micro-batch here.
    """

    effective_batches: list[list[MicroBatch]]
    worst: list[MicroBatch]
    processes = 1

    @abstractmethod
    def shape(self, micro_batch: MicroBatch) -> BatchShape:
        """Shape of a collated micro-batch."""

    @abstractmethod
    def is_full(self, micro_batch: MicroBatch) -> bool:
        """True if its samples fill its rows, one in each, of every process."""

    @property
    @abstractmethod
    def mean_tokens(self) -> float:
        """Real tokens of the mean step."""

    def filled_shape(self, micro_batch: MicroBatch) -> FilledShape:
        """Shape of a collated micro-batch, and whether it is full."""
        return FilledShape.of(self.shape(micro_batch), is_full=self.is_full(micro_batch))

    @cached_property
    def all_alike(self) -> bool:
        """True if every micro-batch has one shape."""
        shapes = {self.shape(micro_batch) for each in self.effective_batches for micro_batch in each}
        return len(shapes) == 1

    def load(self, effective_batch: Sequence[MicroBatch]) -> int:
        """Padded tokens of a whole step."""
        return sum(self.shape(micro_batch).padded_tokens for micro_batch in effective_batch)

    @property
    def mean_load(self) -> float:
        """Padded tokens of the mean step."""
        return statistics.fmean(self.load(effective_batch) for effective_batch in self.effective_batches)

    def in_balanced_order(self) -> list[Sequence[MicroBatch]]:
        """The effective batches so that every beginning of the list spreads over the light and the heavy ones.

        Sorted by load, then visited in the order of the bit-reversed (van der Corput) sequence.
        """
        by_load = sorted(self.effective_batches, key=self.load)
        return [by_load[place] for place in bit_reversed(len(by_load))]

    def spread(self, number: int) -> list[MicroBatch]:
        """Up to ``number`` micro-batches of the list that stand for all of it, light and heavy ones mixed."""
        by_load = sorted(
            itertools.chain.from_iterable(self.effective_batches), key=lambda each: self.shape(each).padded_tokens
        )
        number = min(number, len(by_load))
        places = [int((each + 0.5) / number * len(by_load)) for each in range(number)]
        return [by_load[places[order]] for order in bit_reversed(number)]

    def to_time(self) -> list[tuple[MicroBatch, float]]:
        """Up to three micro-batches, and the share of the expectation that each stands for.

        A micro-batch's time is smooth in its padded tokens: affine, with a quadratic part from attention.
        The Gauss quadrature of the list's own distribution integrates such a function exactly from three
        nodes. Each node is taken by the micro-batch that is nearest to it in padded tokens and, where the
        number of rows varies too, in the attention scores that go with so many tokens on average. Of a shape's
        micro-batches one is taken that is as full as most.
        """
        kinds: dict[FilledShape, list[MicroBatch]] = defaultdict(list)
        for micro_batch in itertools.chain.from_iterable(self.effective_batches):
            kinds[self.filled_shape(micro_batch)].append(micro_batch)
        counts: Counter[BatchShape] = Counter()
        examples: dict[BatchShape, MicroBatch] = {}
        for members in sorted(kinds.values(), key=len, reverse=True):
            shape = self.shape(members[0])
            counts[shape] += len(members)
            examples.setdefault(shape, members[0])
        shapes = list(counts)
        shares = np.array([counts[shape] for shape in shapes], dtype=np.float64) / counts.total()
        tokens = np.array([shape.padded_tokens for shape in shapes], dtype=np.float64)
        scores = np.array([shape.rows * shape.length**2 for shape in shapes], dtype=np.float64)
        places, node_shares = nodes_to_time(tokens, scores, shares)
        return [(examples[shapes[place]], share) for place, share in zip(places, node_shares, strict=True)]


class StepBatches(Batches):
    """The frozen list of effective batches as one recipe cuts it into micro-batches: tuples of sample lengths."""

    def __init__(self, recipe: Recipe, workload: Workload, seed: int) -> None:
        self._recipe = recipe
        self._lengths = workload.lengths
        self._shapes: dict[MicroBatch, BatchShape] = {}
        samples = workload.lengths.frozen_samples(workload.effective_batch, seed)
        self._epoch = workload.lengths.frozen_epoch(workload.effective_batch)
        self.processes = recipe.processes
        self.effective_batches = self._cut(samples, seed)
        self.worst = self._worst_micro_batches()

    def shape(self, micro_batch: MicroBatch) -> BatchShape:
        """Shape of a micro-batch that this recipe's collator made, of all processes together."""
        return together([self.own_shape(micro_batch, process) for process in range(self.processes)])

    def own_shape(self, micro_batch: MicroBatch, process: int) -> BatchShape:
        """Shape of one process's share."""
        return self._shape(self.share(micro_batch, process))

    def share(self, micro_batch: MicroBatch, process: int) -> MicroBatch:
        """The samples of one process: shares lie behind one another."""
        size = len(micro_batch) // self.processes
        return micro_batch[process * size : (process + 1) * size]

    @property
    def mean_tokens(self) -> float:
        return statistics.fmean(sum(map(sum, effective_batch)) for effective_batch in self.effective_batches)

    def shapes(self) -> MicroBatches:
        """Shapes of the worst micro-batches, of the first steps in training order, and what they come to on average.

        Of several processes it is the largest share each time: memory is the largest rank's, time the slowest one's.
        """
        shares = [list(map(self._largest_share, effective_batch)) for effective_batch in self.effective_batches]
        steps = -(-MOST_IN_ORDER // self._recipe.accumulation_steps)
        return MicroBatches(
            worst=tuple(dict.fromkeys(self._filled(self._largest_share(each)) for each in self.worst)),
            in_order=tuple(
                tuple(map(self._filled, effective_batch[:MOST_IN_ORDER])) for effective_batch in shares[:steps]
            ),
            mean_tokens=statistics.fmean(
                self._shape(share).padded_tokens for share in itertools.chain.from_iterable(shares)
            ),
            mean_scores=statistics.fmean(map(self._scores, itertools.chain.from_iterable(shares))),
        )

    def _largest_share(self, micro_batch: MicroBatch) -> MicroBatch:
        """The samples of the process that has most padded tokens, and of equal ones one with padding."""
        shares = [self.share(micro_batch, process) for process in range(self.processes)]
        return max(shares, key=lambda share: (self._shape(share).padded_tokens, not self._fills(share)))

    def _filled(self, share: MicroBatch) -> FilledShape:
        return FilledShape.of(self._shape(share), is_full=self._fills(share))

    def _fills(self, share: MicroBatch) -> bool:
        return self._recipe.collator == "PadRight" and sum(share) == self._shape(share).padded_tokens

    def _shape(self, share: MicroBatch) -> BatchShape:
        """Shape of one process's samples, found once, as packing is not free."""
        if share not in self._shapes:
            self._shapes[share] = shape_of(share, self._recipe.collator, self._recipe.collator_kwargs)
        return self._shapes[share]

    def is_full(self, micro_batch: MicroBatch) -> bool:
        return all(self._fills(self.share(micro_batch, process)) for process in range(self.processes))

    def _scores(self, share: MicroBatch) -> int:
        """Squares of the lengths that attention works on; in a flattened row it stays within each sample."""
        if self._recipe.collator == "DataCollatorWithFlattening":
            return sum(length**2 for length in share)
        shape = self._shape(share)
        return shape.rows * shape.length**2

    def _cut(self, samples: list[int], seed: int) -> list[list[MicroBatch]]:
        return [
            [tuple(samples[place] for place in places) for places in effective_batch]
            for effective_batch in cut(samples, self._recipe, seed, self._epoch)
        ]

    def _worst_micro_batches(self) -> list[MicroBatch]:
        """Micro-batches that need most memory: most padded tokens, and most attention scores where that is another.

        Looked for in the frozen list and in effective batches made to be bad: the longest samples of the
        data together, alone or among shorter ones. Where those of most tokens fill their rows, one that does not is
        added: its attention has a mask, and other kernels.
        """
        at_once = self._recipe.micro_batch_size * self.processes
        longest = self._lengths.longest_samples(at_once * self._recipe.accumulation_steps)
        # Grouping by length brings the longest samples together in its first step; so may chance.
        bad = [tuple(longest[:at_once])]
        if self._recipe.training_arguments.get("train_sampling_strategy") == "batch_rebalance":
            bad = [each for mixture in _mixtures(longest, self._lengths) for each in self._cut(mixture, 0)[0]]
        every = bad + [each for effective_batch in self.effective_batches for each in effective_batch]
        shapes = {each: self.shape(each) for each in every}
        most_tokens = max(shapes, key=lambda each: (shapes[each].padded_tokens, sum(each)))
        most_scores = max(shapes, key=lambda each: (shapes[each].rows * shapes[each].length ** 2, sum(each)))
        worst = [most_tokens]
        if self.is_full(most_tokens):
            worst += self._with_padding(most_tokens)
        return worst if shapes[most_tokens] == shapes[most_scores] else [*worst, most_scores]

    def _with_padding(self, full: MicroBatch) -> list[MicroBatch]:
        """The same rows with one shorter sample in them, where the data has one and the rows would be as long."""
        shorter = self._lengths.next_shorter(min(full))
        padded = (*full[:-1], shorter or 0)
        has_mask = shorter is not None and not self.is_full(padded)
        return [padded] if has_mask and self.shape(padded) == self.shape(full) else []


def _mixtures(longest: list[int], lengths: SampleLengths) -> list[list[int]]:
    """Effective batches of the longest samples, filled up with typical ones in several proportions."""
    mixtures = [longest]
    for eighths in range(1, 8):
        number = max(1, len(longest) * eighths // 8)
        mixtures += [longest[:number] + [lengths.quantile(q)] * (len(longest) - number) for q in (0.1, 0.5, 0.9)]
    return mixtures


class GivenMicroBatches(BatchRebalanceSampler or BatchSampler):  # type: ignore[misc]
    """Gives the Trainer's loader the micro-batches it is given, as indices into the data set.

    Of this class because the Trainer takes it as a batch sampler, which may give micro-batches of
    different sizes.
    """

    def __init__(self, micro_batches: Callable[[], Iterator[list[int]]], number: int) -> None:
        self.epoch = 0
        self._micro_batches = micro_batches
        self._number = number

    def __iter__(self) -> Iterator[list[int]]:
        return self._micro_batches()

    def __len__(self) -> int:
        return self._number


def nodes_to_time(
    tokens: FloatArray, scores: FloatArray, shares: FloatArray, most: int = MOST_TIMED_SHAPES
) -> tuple[list[int], list[float]]:
    """Places of up to ``most`` points, and shares of the expectation of functions of tokens and scores.

    The nodes are the Gauss nodes of the tokens' distribution (eigenvalues of its Jacobi matrix, Golub and
    Welsch 1969). The scores that belong to a node are the distribution's own quadratic regression on
    tokens, which the quadrature integrates exactly too. The shares are then solved so that the chosen
    points keep the tokens' moments; where one would not be positive, fewer nodes are taken.
    """
    if len(tokens) <= most:
        return list(range(len(tokens))), [float(share) for share in shares]
    scale = float((shares * tokens).sum())
    values = tokens / scale
    roots = np.sqrt(shares)
    usual = np.polynomial.Polynomial(
        np.linalg.lstsq(np.vander(values, 3, increasing=True) * roots[:, None], scores * roots, rcond=None)[0]
    )
    for number in range(most, 1, -1):
        if len(np.unique(values)) < number:
            continue
        places = sorted(
            {
                int(np.argmin((values / node - 1) ** 2 + (scores / max(float(usual(node)), 1.0) - 1) ** 2))
                for node in _gauss_nodes(values, shares, number)
            }
        )
        chosen = values[places]
        if len(np.unique(chosen)) < len(chosen):
            continue
        moments = np.array([(shares * values**power).sum() for power in range(len(chosen))])
        found = np.linalg.solve(np.vander(chosen, increasing=True).T, moments)
        if len(chosen) > 1 and (found > 0).all():
            return places, [float(share) for share in found]
    return [int(np.abs(values - 1).argmin())], [1.0]


def _gauss_nodes(values: FloatArray, shares: FloatArray, number: int) -> FloatArray:
    """Nodes of the discrete distribution's Gauss quadrature, from its recurrence (the Stieltjes procedure)."""
    diagonal, off_diagonal = [], []
    before, now = np.zeros_like(values), np.ones_like(values)
    beta = 0.0
    for _ in range(number):
        alpha = float((shares * values * now**2).sum())
        diagonal.append(alpha)
        following = (values - alpha) * now - beta * before
        beta = max(float(np.sqrt((shares * following**2).sum())), 1e-12)
        off_diagonal.append(beta)
        before, now = now, following / beta
    jacobi = np.diag(diagonal) + np.diag(off_diagonal[:-1], 1) + np.diag(off_diagonal[:-1], -1)
    nodes: FloatArray = np.linalg.eigvalsh(jacobi)
    return nodes
