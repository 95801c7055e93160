"""Length histograms and the frozen list of samples."""

from __future__ import annotations

import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofit.errors import UserError
from autofit.job.lengths import FEWEST_FROZEN_BATCHES, FROZEN_BATCHES, SampleLengths

some_lengths = st.lists(st.integers(1, 300), min_size=2, max_size=200)


def test_lengths_are_counted_cut_and_empty_samples_left_out() -> None:
    lengths = SampleLengths.of([3, 9, 0, 3, 50, 70], longest=40)
    assert lengths == SampleLengths(
        lengths=(3, 9, 40), counts=(2, 1, 2), cut_samples=lengths.cut_samples, cut_tokens=lengths.cut_tokens
    )
    assert (lengths.num_samples, lengths.longest, lengths.mean) == (5, 40, 19.0)
    with pytest.raises(UserError, match="not one sample"):
        SampleLengths.of([0, 0])


@given(some_lengths, st.floats(0.01, 1.0))
def test_a_quantile_is_the_smallest_length_that_enough_samples_do_not_exceed(found: list[int], share: float) -> None:
    quantile = SampleLengths.of(found).quantile(share)
    assert sum(length <= quantile for length in found) >= share * len(found) - 1e-6
    assert sum(length < quantile for length in found) < share * len(found) + 1e-6


def test_the_longest_samples_come_longest_first_and_are_repeated_where_there_are_too_few() -> None:
    lengths = SampleLengths.of([5, 5, 8, 2])
    assert lengths.longest_samples(3) == [8, 5, 5]
    assert lengths.longest_samples(6) == [8, 5, 5, 2, 8, 5]


@given(some_lengths, st.integers(1, 16), st.integers(0, 3))
def test_the_frozen_list_holds_whole_effective_batches_of_the_data(found: list[int], batch: int, seed: int) -> None:
    lengths = SampleLengths.of(found)
    if lengths.all_equal or len(found) < batch:
        return
    frozen = lengths.frozen_samples(batch, seed)
    assert frozen == lengths.frozen_samples(batch, seed), "the same for every configuration"
    assert len(frozen) % batch == 0 and len(frozen) >= FEWEST_FROZEN_BATCHES * batch
    one_epoch = Counter(frozen[: min(len(found) // batch, FROZEN_BATCHES) * batch])
    assert one_epoch <= Counter(found), "no sample comes twice in an epoch"


def test_the_frozen_list_of_much_data_is_bounded_and_has_its_mean() -> None:
    lengths = SampleLengths.of(range(1, 100_001), longest=2000)
    frozen = lengths.frozen_samples(32, 0)
    assert len(frozen) == FROZEN_BATCHES * 32
    assert statistics.fmean(frozen) == pytest.approx(lengths.mean, rel=0.02)


def test_fewer_samples_than_one_effective_batch_are_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match="3 samples, fewer than one effective batch of 8"):
        SampleLengths.of([1, 2, 3]).frozen_samples(8, 0)


def test_the_description_names_count_median_and_tail() -> None:
    text = SampleLengths.of([10] * 90 + [50] * 9 + [200]).describe()
    assert text == "100 samples: median 10 tokens, p90 10, p99 50, longest 200"
    assert SampleLengths.fixed(7).describe() == "every sample 7 tokens"


def test_what_truncation_takes_is_counted_and_said() -> None:
    lengths = SampleLengths.of([10, 20, 50, 70], longest=40)
    assert (lengths.cut_samples, lengths.cut_tokens) == (2, 40)
    assert "2 samples cut to 40, 26.7% of all tokens dropped" in lengths.describe()
    assert "cut" not in SampleLengths.of([10, 20, 40], longest=40).describe()
