"""A program's own samples: their order, lengths and micro-batches, by its own loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from autofit.job.program import ProgramSamples
from autofit.knobs.recipe import Recipe
from autofit.study.measurement import BatchShape
from autofit.worker.program import samples
from autofit.worker.program.samples import ProgramBatches, Source

LENGTHS = [3, 5, 2, 7, 4, 6, 8, 1]
SAMPLES = [{"input_ids": torch.ones(length, dtype=torch.long)} for length in LENGTHS]


def padded(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    rows = [each["input_ids"] for each in samples]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": tokens, "attention_mask": (tokens > 0).long()}


class WithLoader:
    """As much of a Trainer as a source asks."""

    def __init__(self, dataset: Any, **settings: Any) -> None:
        shuffles = {} if isinstance(dataset, IterableDataset) else {"shuffle": True}
        self._loader = DataLoader(dataset, batch_size=2, collate_fn=padded, **shuffles, **settings)

    def get_train_dataloader(self) -> Any:
        return self._loader


def samples_of(order: tuple[int, ...]) -> ProgramSamples:
    longest = sorted(order, key=lambda place: -LENGTHS[place])
    return ProgramSamples(order=order, lengths=tuple(LENGTHS[place] for place in order), longest=tuple(longest))


def recipe(micro: int, accumulation: int, processes: int = 1) -> Recipe:
    arguments = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation}
    return Recipe(training_arguments=arguments, model_kwargs={}, environment={}, processes=processes)


def test_the_order_is_the_samplers_own_and_each_place_comes_once() -> None:
    source = Source(WithLoader(SAMPLES))
    assert sorted(source.order(8)) == list(range(8)) and len(source.order(6)) == 6


def test_every_sample_is_looked_at_where_there_is_time() -> None:
    assert Source(WithLoader(SAMPLES)).lengths([3]) == (dict(enumerate(LENGTHS)), True)


def test_a_look_that_was_cut_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "LOOKING_SECONDS", -1.0)
    assert Source(WithLoader(SAMPLES)).lengths([3]) == ({3: 7}, False)


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return iter(SAMPLES)


def test_of_a_stream_the_first_samples_are_kept() -> None:
    source = Source(WithLoader(Stream()), fewest=4)
    assert source.is_stream and source.order(8) == [0, 1, 2, 3]


class Unprepared:
    """An accelerator that leaves a loader as it is."""

    def prepare(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        return loader


@pytest.mark.parametrize(
    ("own", "asked", "workers", "ahead"),
    [
        ({}, None, 0, None),
        ({}, 2, 2, 2),
        ({"num_workers": 2, "prefetch_factor": 64, "persistent_workers": True}, None, 2, 2),
        ({"num_workers": 2, "prefetch_factor": 64, "persistent_workers": True}, 2, 2, 2),
        ({"num_workers": 2, "prefetch_factor": 64, "persistent_workers": True}, 0, 0, None),
        ({"num_workers": 2, "prefetch_factor": 1}, None, 2, 1),
    ],
)
def test_a_trials_loader_has_the_workers_that_are_asked_for_and_does_not_fetch_far_ahead(
    own: dict[str, Any], asked: int | None, workers: int, ahead: int | None
) -> None:
    loader = Source(WithLoader(SAMPLES, **own)).loader_of([[0, 1], [2]], Unprepared(), asked)
    assert (loader.num_workers, loader.prefetch_factor) == (workers, ahead)
    assert loader.persistent_workers is (workers > 0 and "persistent_workers" in own)
    assert [len(batch["input_ids"]) for batch in loader] == [2, 1]


@pytest.mark.parametrize(("micro", "accumulation"), [(1, 4), (2, 2), (4, 1)])
def test_every_split_holds_the_same_samples_in_the_same_steps(micro: int, accumulation: int) -> None:
    order = (4, 1, 0, 6, 2, 3, 7, 5)
    batches = ProgramBatches(recipe(micro, accumulation), samples_of(order), Source(WithLoader(SAMPLES)))
    steps = [[place for each in step for place in each] for step in batches.effective_batches]
    assert steps == [[4, 1, 0, 6], [2, 3, 7, 5]]
    assert batches.mean_tokens == sum(LENGTHS) / 2


def test_shapes_are_what_the_programs_collator_makes() -> None:
    batches = ProgramBatches(recipe(2, 2), samples_of(tuple(range(8))), Source(WithLoader(SAMPLES)))
    assert batches.shape((0, 3)) == BatchShape(rows=2, length=7)
    assert batches.worst == [(6, 3)]


def test_the_longest_samples_alone_come_with_padding_and_without_though_they_are_not_in_order() -> None:
    lengths = [8, 8, 3, 5]
    rows = [{"input_ids": torch.ones(length, dtype=torch.long)} for length in lengths]
    given = ProgramSamples(order=(2, 3), lengths=(3, 5), longest=(0, 1))
    batches = ProgramBatches(recipe(2, 1), given, Source(WithLoader(rows)))
    assert batches.worst == [(0, 1), (0, 3)]
    assert [batches.tokens(each) for each in batches.worst] == [16, 13]
    assert {batches.shape(each) for each in batches.worst} == {BatchShape(rows=2, length=8)}
    one = ProgramBatches(recipe(1, 2), given, Source(WithLoader(rows)))
    assert one.worst == [(0,)]


def test_processes_share_a_micro_batch_and_plan_the_same_steps() -> None:
    batches = ProgramBatches(recipe(2, 1, processes=2), samples_of(tuple(range(8))), Source(WithLoader(SAMPLES)))
    (step, _) = batches.effective_batches
    assert step == [(0, 1, 2, 3)]
    assert [batches.share(step[0], process) for process in (0, 1)] == [(0, 1), (2, 3)]
    # All rows together, at the length of the slowest process.
    assert batches.shape(step[0]) == BatchShape(rows=4, length=7)
