"""Micro-batches formed over lengths alone, held against the real samplers' and collators' own."""

from __future__ import annotations

import itertools
import random
import statistics
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autofit.job.lengths import SampleLengths
from autofit.job.tasks import task_named
from autofit.job.workload import Workload
from autofit.knobs import knob
from autofit.knobs.recipe import Recipe, recipe_for
from autofit.predict.micro_batches import MicroBatches
from autofit.study.measurement import BatchShape
from autofit.worker.batches import StepBatches, nodes_to_time
from autofit.worker.build import build_collator
from autofit.worker.collated import shape_of_batch
from autofit.worker.made_up_samples import SamplesByLength
from tests.doubles import make_config, make_situation

LAYOUTS = [choice.value for choice in knob("batch_layout").choices]
CHAT = [max(2, int(random.Random(number).lognormvariate(4, 0.9))) for number in range(3000)]


class Config:
    vocab_size = 100
    pad_token_id = 0
    num_labels = 2

    def get_text_config(self) -> Config:
        return self


def batches_of(
    layout: str, micro_batch_size: int = 4, effective_batch: int = 16, found: list[int] = CHAT
) -> tuple[StepBatches, Recipe, Workload]:
    lengths = SampleLengths.of(found, longest=512)
    situation = make_situation(effective_batch=effective_batch, lengths=lengths)
    config = make_config(
        micro_batch_size=micro_batch_size,
        accumulation_steps=effective_batch // micro_batch_size,
        batch_layout=layout,
        attention="torch_varlen" if layout == "flattened" else "sdpa",
    )
    recipe = recipe_for(config, situation)
    return StepBatches(recipe, situation.workload, 0), recipe, situation.workload


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("micro_batch_size", [1, 4, 16])
def test_every_step_holds_the_effective_batch_in_as_many_micro_batches_as_it_accumulates(
    layout: str, micro_batch_size: int
) -> None:
    batches, _, _ = batches_of(layout, micro_batch_size)
    for effective_batch in batches.effective_batches:
        assert len(effective_batch) == 16 // micro_batch_size
        assert sum(map(len, effective_batch)) == 16


def test_every_layout_is_timed_on_the_same_samples() -> None:
    samples = set()
    for layout in LAYOUTS:
        batches, _, _ = batches_of(layout)
        flat = itertools.chain.from_iterable(itertools.chain.from_iterable(batches.effective_batches))
        samples.add(tuple(sorted(flat)))
    assert len(samples) == 1


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "group_by_length"])
def test_a_layout_that_calls_itself_exact_keeps_each_effective_batch_together(layout: str) -> None:
    plain, _, _ = batches_of("dynamic_padding")
    batches, _, _ = batches_of(layout)
    for ours, theirs in zip(batches.effective_batches, plain.effective_batches, strict=True):
        assert Counter(itertools.chain(*ours)) == Counter(itertools.chain(*theirs))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_are_those_the_real_collator_makes(layout: str) -> None:
    batches, recipe, workload = batches_of(layout)
    samples = SamplesByLength(task_named("causal-lm"), Config(), workload.sequence_length, 0)
    collator = build_collator(recipe, Config())
    some = [*batches.worst, *itertools.chain(*batches.effective_batches[:5])]
    for micro_batch in some:
        collated = collator([samples[length] for length in micro_batch])
        assert shape_of_batch(collated) == batches.shape(micro_batch)
        assert int((collated["labels"] != -100).sum()) in (sum(micro_batch), sum(micro_batch) - len(micro_batch))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_micro_batch_of_the_list_needs_more_than_the_worst(layout: str) -> None:
    batches, _, workload = batches_of(layout)
    tokens = max(batches.shape(each).padded_tokens for each in batches.worst)
    scores = max(batches.shape(each).rows * batches.shape(each).length ** 2 for each in batches.worst)
    for micro_batch in itertools.chain(*batches.effective_batches):
        shape = batches.shape(micro_batch)
        assert shape.padded_tokens <= tokens and shape.rows * shape.length**2 <= scores
    assert tokens >= 4 * workload.sequence_length if layout != "packed" else tokens >= workload.sequence_length


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_in_order_are_whole_steps_and_their_means_are_of_the_whole_list(layout: str) -> None:
    batches, recipe, _ = batches_of(layout)
    found = batches.shapes()
    assert len(found.in_order) == 25 and all(len(step) == 4 for step in found.in_order)
    first = [batches.shape(each) for each in batches.effective_batches[0]]
    assert [(each.rows, each.length) for each in found.in_order[0]] == [(each.rows, each.length) for each in first]
    assert found.mean_tokens * recipe.accumulation_steps == pytest.approx(batches.mean_load)
    assert found.mean_scores >= found.mean_tokens
    assert [batches.shape(each).padded_tokens for each in batches.worst] == [each.padded_tokens for each in found.worst]


def test_of_the_longest_samples_alone_there_is_one_with_padding_beside_the_one_without() -> None:
    def worst(layout: str, found: list[int]) -> list[tuple[int, int, bool]]:
        shapes = batches_of(layout, found=found)[0].shapes()
        return [(each.rows, each.length, each.is_full) for each in shapes.worst]

    cut_to_64 = [10, 30, 64, 64] * 32
    assert worst("dynamic_padding", cut_to_64) == [(4, 64, True), (4, 64, False)]
    assert worst("fixed_padding", cut_to_64) == [(4, 64, True), (4, 64, False)]
    assert [is_full for *_, is_full in worst("flattened", cut_to_64)] == [False]
    # The longest sample is longer than any other, so that no micro-batch of four is full.
    assert worst("dynamic_padding", [*range(10, 74)] * 2) == [(4, 73, False)]


def test_of_several_processes_shapes_are_those_of_the_largest_share() -> None:
    def shapes(micro: int, found: list[int]) -> MicroBatches:
        situation = make_situation(effective_batch=16, processes=2, lengths=SampleLengths.of(found))
        config = make_config(micro_batch_size=micro, accumulation_steps=8 // micro)
        return StepBatches(recipe_for(config, situation), situation.workload, 0).shapes()

    found = shapes(4, [10, 30, 64, 64] * 64)
    assert {each.rows for each in found.all} == {4}
    assert [(each.length, each.is_full) for each in found.worst] == [(64, True), (64, False)]
    assert 4 * 40 < found.mean_tokens <= 4 * 64 and found.mean_scores <= 4 * 64**2
    # A sample alone in its micro-batch has no padding, whatever another process has.
    alone = shapes(1, list(range(10, 75)))
    assert all(each.is_full and each.rows == 1 for each in alone.all)


def test_attention_in_a_flattened_row_works_on_each_sample_alone() -> None:
    batches, _, _ = batches_of("flattened", found=[10, 30] * 32)
    assert batches.shapes().mean_scores == pytest.approx(2 * (10**2 + 30**2))


TIMES: list[Callable[[BatchShape], float]] = [
    lambda shape: 50.0 + shape.padded_tokens,
    lambda shape: 20.0 + shape.padded_tokens + 0.002 * shape.rows * shape.length**2,
    lambda shape: shape.padded_tokens + 300 * shape.padded_tokens**0.5,
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("time", TIMES)
def test_a_few_timed_shapes_give_the_expectation_over_the_whole_list(
    layout: str, micro_batch_size: int, time: Callable[[BatchShape], float]
) -> None:
    batches, _, _ = batches_of(layout, micro_batch_size)
    exact = statistics.fmean(time(batches.shape(each)) for each in itertools.chain(*batches.effective_batches))
    timed = batches.to_time()
    assert len(timed) <= 3 and sum(share for _, share in timed) == pytest.approx(1)
    expected = sum(share * time(batches.shape(each)) for each, share in timed)
    # Three micro-batches at random are off by tens of percent on such lengths.
    assert expected == pytest.approx(exact, rel=0.04 if layout in ("packed", "batch_rebalance") else 0.02)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=200))
def test_shares_are_positive_and_keep_the_mean(found: list[int]) -> None:
    counts = Counter(found)
    tokens = np.array(sorted(counts), dtype=float)
    shares = np.array([counts[int(each)] for each in tokens]) / len(found)
    places, node_shares = nodes_to_time(tokens, tokens**2, shares)
    assert len(places) == len(node_shares) <= 3 and min(node_shares) > 0
    assert sum(node_shares) == pytest.approx(1)
    mean = sum(share * tokens[place] for place, share in zip(places, node_shares, strict=True))
    assert mean == pytest.approx(statistics.fmean(found), rel=1e-6 if len(places) > 1 or len(tokens) == 1 else 0.5)


def test_any_beginning_of_the_balanced_order_has_about_the_mean_load() -> None:
    batches, _, _ = batches_of("dynamic_padding")
    ordered = batches.in_balanced_order()
    assert Counter(map(tuple, ordered)) == Counter(map(tuple, batches.effective_batches))
    for number in (3, 4, 8, 20):
        mean = statistics.fmean(batches.load(each) for each in ordered[:number])
        assert mean == pytest.approx(batches.mean_load, rel=0.15 if number < 8 else 0.06)


def test_samples_of_equal_length_make_one_shape() -> None:
    batches, _, _ = batches_of("dynamic_padding", found=[64] * 100)
    assert len(batches.effective_batches) == 1 and len(batches.to_time()) == 1
    assert batches.mean_tokens == batches.mean_load == 16 * 64


def test_random_token_ids_lie_in_the_vocabulary_and_samples_have_the_length_asked_for() -> None:
    samples = SamplesByLength(task_named("causal-lm"), Config(), 50, 0)
    for length in (1, 7, 50):
        sample = samples[length]
        assert sample["input_ids"].shape == sample["attention_mask"].shape == (length,)
        assert int(sample["input_ids"].max()) < 100
    assert not torch.equal(samples[50]["input_ids"], samples[50]["input_ids"])
