"""A program's own samples: what its loader is made of, how long they are, and the micro-batches that trials run."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from autofit.job.program import ProgramSamples
from autofit.knobs.recipe import Recipe
from autofit.study.measurement import BatchShape
from autofit.worker.batches import Batches, MicroBatch, together
from autofit.worker.collated import length_of, shape_of_batch
from autofit.worker.processes import keep_whole

MOST_BATCHES = 64
"""Effective batches that trials are timed on, where an epoch has as many."""
MOST_SAMPLES = 8192
"""Of them together, at least one effective batch: their micro-batches are collated once for every split."""
MOST_LOOKED_AT = 20_000
"""Samples whose lengths are looked at beside those of the order, spread over the data set."""
ENOUGH_OF_ONE_LENGTH = 512
"""Samples after which a data set is taken to have one length."""
LOOKING_SECONDS = 30.0
"""For looking at more samples than the order's."""
LOADING_TRIES, SURELY = 3, 10
MOST_AHEAD = 2
"""Micro-batches that each loader worker prepares ahead, PyTorch's own default; more of them even out, and no faster."""
_OF_THE_LOADER = (
    "num_workers", "pin_memory", "prefetch_factor", "persistent_workers", "worker_init_fn", "timeout", "in_order",
    "multiprocessing_context",
)  # fmt: skip


class Source:
    """The samples behind a Trainer's own training loader, and what its loader does to them.

    ``fewest`` samples of a stream are read into memory, or as many as come in ``seconds``: they have no places to find
    them by.
    """

    def __init__(self, trainer: Any, *, fewest: int = 0, seconds: float = math.inf) -> None:
        self.loader = trainer.get_train_dataloader()
        self.collate: Callable[[list[Any]], Any] = self.loader.collate_fn
        dataset = self.loader.dataset
        self.is_stream = isinstance(dataset, IterableDataset)
        self.samples: Any = list(_in_time(dataset, fewest, seconds)) if self.is_stream else dataset

    @property
    def makes_own_batches(self) -> bool:
        """True where a batch sampler of the program's own, or its stream, decides which samples share a micro-batch."""
        return self.batch_size is None if self.is_stream else type(self._batch_sampler()) is not BatchSampler

    @property
    def batch_size(self) -> int | None:
        """Samples that the loader gives at once, to one process."""
        size: int | None = self.loader.batch_size if self.is_stream else self._batch_sampler().batch_size
        return size

    def _batch_sampler(self) -> Any:
        """The program's, of all processes: accelerate's wrapper gives each its own share."""
        sampler = self.loader.batch_sampler
        while hasattr(sampler, "batch_sampler"):
            sampler = sampler.batch_sampler
        return sampler

    def batch(self, micro_batch: MicroBatch) -> Any:
        """A collated micro-batch."""
        return self.collate([self.samples[place] for place in micro_batch])

    def seconds_to_load(self, micro_batches: Sequence[MicroBatch], enough: float) -> float:
        """Seconds of this process to load and collate micro-batches: the least of a few tries, of one where it is
        surely more than ``enough``."""
        least = math.inf
        for _ in range(LOADING_TRIES):
            began = time.perf_counter()
            for micro_batch in micro_batches:
                self.batch(micro_batch)
            least = min(least, time.perf_counter() - began)
            if least > SURELY * enough:
                break
        return least

    def order(self, number: int) -> list[int]:
        """Places of the first ``number`` samples of a training, as the loader's own sampler draws them."""
        if self.is_stream:
            return list(range(min(number, len(self.samples))))
        return list(itertools.islice(itertools.chain.from_iterable(self._batch_sampler()), number))

    def lengths(self, order: Sequence[int]) -> tuple[dict[int, int], bool]:
        """Tokens of samples by place, each collated alone: those of ``order`` and many others.

        The second is False where time was too short for the others: another look may then find other samples.
        """
        known = {place: length_of(self.batch((place,))) for place in dict.fromkeys(order)}
        if self.is_stream or (len(known) >= ENOUGH_OF_ONE_LENGTH and len(set(known.values())) == 1):
            return known, True
        deadline = time.monotonic() + LOOKING_SECONDS
        for place in itertools.islice(_spread_over(len(self.samples)), MOST_LOOKED_AT):
            if time.monotonic() > deadline:
                return known, False
            if place not in known:
                known[place] = length_of(self.batch((place,)))
        return known, True

    def loader_of(self, sampler: Any, accelerator: Any, num_workers: int | None = None) -> Any:
        """A loader like the program's own, whose micro-batches a sampler of ours gives.

        ``num_workers`` is how many load samples; the program's own number where it is None.
        """
        settings = {name: getattr(self.loader, name) for name in _OF_THE_LOADER}
        if num_workers is not None and num_workers != settings["num_workers"]:
            settings |= {"num_workers": num_workers, "prefetch_factor": None, "persistent_workers": False}
        if settings["prefetch_factor"] is not None:
            # What is drawn ahead has to run before anything else: hundreds of steps where a program draws hundreds.
            settings["prefetch_factor"] = min(settings["prefetch_factor"], MOST_AHEAD)
        made = DataLoader(self.samples, batch_sampler=sampler, collate_fn=self.collate, **settings)
        return keep_whole(accelerator.prepare(made), sampler)


class ProgramBatches(Batches):
    """Effective batches of a program's own samples, as its Trainer cuts them into micro-batches of the recipe's size.

    A micro-batch is a tuple of places in the data set: of all processes, whose shares lie behind one another, so that
    each of them plans the same steps.
    """

    def __init__(self, recipe: Recipe, samples: ProgramSamples, source: Source) -> None:
        self._source = source
        self.processes = recipe.processes
        self._own_size = recipe.micro_batch_size
        self._shapes: dict[Any, BatchShape] = {}
        self._length_of = dict(zip(samples.order, samples.lengths, strict=True))
        size, accumulation = recipe.micro_batch_size * recipe.processes, recipe.accumulation_steps
        cut = [samples.order[start : start + size] for start in range(0, len(samples.order), size)]
        self.effective_batches = [list(cut[start : start + accumulation]) for start in range(0, len(cut), accumulation)]
        most = tuple(itertools.islice(itertools.cycle(samples.longest), size))
        self.worst = [most, *self._with_padding(most)]

    def shape(self, micro_batch: MicroBatch) -> BatchShape:
        """Shape that the program's own collator gives it, found once: rows of all processes, the longest length."""
        key = len(micro_batch) if self._are_of_one_length else micro_batch
        if key not in self._shapes:
            shares = [self.share(micro_batch, process) for process in range(self.processes)]
            shapes = [shape_of_batch(self._source.batch(share)) for share in shares]
            self._shapes[key] = together(shapes)
        return self._shapes[key]

    def _with_padding(self, most: MicroBatch) -> list[MicroBatch]:
        """The same rows with a shorter sample in them, where all fill theirs: attention then has a mask."""
        if not self.is_full(most):
            return []
        longest = self.tokens(most[:1])
        shorter = [place for place, length in self._length_of.items() if length < longest]
        if not shorter:
            return []
        padded = (*most[:-1], max(shorter, key=self._length_of.__getitem__))
        return [padded] if self.shape(padded) == self.shape(most) else []

    def share(self, micro_batch: MicroBatch, process: int) -> MicroBatch:
        """The samples of one process."""
        return micro_batch[process * self._own_size : (process + 1) * self._own_size]

    @property
    def mean_tokens(self) -> float:
        return statistics.fmean(sum(map(self.tokens, each)) for each in self.effective_batches)

    def is_full(self, micro_batch: MicroBatch) -> bool:
        return self.tokens(micro_batch) == self.shape(micro_batch).padded_tokens

    def tokens(self, micro_batch: MicroBatch) -> int:
        """Real tokens of a micro-batch; of the longest samples some may not be among those in order."""
        for place in micro_batch:
            if place not in self._length_of:
                self._length_of[place] = length_of(self._source.batch((place,)))
        return sum(self._length_of[place] for place in micro_batch)

    @cached_property
    def _are_of_one_length(self) -> bool:
        return len(set(self._length_of.values())) == 1


def _in_time(stream: Iterable[Any], number: int, seconds: float) -> Iterator[Any]:
    """The first samples of a stream: up to ``number``, or as many as come in time."""
    deadline = time.monotonic() + seconds
    for count, sample in enumerate(stream):
        if count == number or time.monotonic() > deadline:
            return
        yield sample


def _spread_over(length: int) -> Iterator[int]:
    """Every place of a data set, in an order that is spread over it from the beginning: golden-ratio steps."""
    step = max(1, round(length * 0.6180339887))
    while length > 1 and math.gcd(step, length) != 1:
        step += 1
    return (number * step % length for number in range(length))
