"""Interpolation between exact values that come a few at a time."""

from __future__ import annotations

import numpy as np
import pytest

from autofit.driver.covariance import Kernel
from autofit.driver.encoding import EncodedSpace
from autofit.driver.interpolation import EXACTLY, Interpolation
from autofit.driver.prior import SECONDS_BETWEEN
from tests.driver.test_strategy import gpu_space
from tests.driver.test_surrogate import truth


@pytest.fixture(scope="module")
def encoded() -> EncodedSpace:
    return EncodedSpace(gpu_space(effective_batch=16))


def some(encoded: EncodedSpace, places: list[int]) -> dict[int, float]:
    return dict(zip(places, truth(encoded)[places].tolist(), strict=True))


def test_values_that_come_in_parts_tell_what_they_tell_together(encoded: EncodedSpace) -> None:
    places = np.random.default_rng(0).choice(len(encoded), 90, replace=False).tolist()
    whole, parts = Interpolation(encoded, SECONDS_BETWEEN), Interpolation(encoded, SECONDS_BETWEEN)
    whole.add(some(encoded, places))
    for begin in range(0, len(places), 30):
        parts.add(some(encoded, places[begin : begin + 30]))
    assert np.allclose(whole.belief().mean, parts.belief().mean, atol=1e-3)
    assert np.allclose(whole.belief().deviation, parts.belief().deviation, atol=1e-3)


def test_it_is_the_process_that_the_books_write_down(encoded: EncodedSpace) -> None:
    places = np.random.default_rng(1).choice(len(encoded), 40, replace=False).tolist()
    values, everywhere = truth(encoded)[places], list(range(0, len(encoded), 17))
    kernel = Kernel(encoded, SECONDS_BETWEEN)
    covariance = kernel.between(places, places) + EXACTLY**2 * np.eye(len(places))
    across = kernel.between(everywhere, places)
    mean = np.median(values) + across @ np.linalg.solve(covariance, values - np.median(values))
    variance = kernel.variance - np.einsum("ij,ji->i", across, np.linalg.solve(covariance, across.T))
    interpolation = Interpolation(encoded, SECONDS_BETWEEN)
    interpolation.add(some(encoded, places))
    believed = interpolation.belief()
    assert np.allclose(believed.mean[everywhere], mean, atol=5e-3)
    assert np.allclose(believed.deviation[everywhere] ** 2, variance, atol=1e-4)


def test_hundreds_of_exact_values_next_to_each_other_are_told_as_they_are(encoded: EncodedSpace) -> None:
    values, places = truth(encoded), list(range(0, 1200, 2))
    interpolation = Interpolation(encoded, SECONDS_BETWEEN)
    for begin in range(0, len(places), 12):
        interpolation.add(some(encoded, places[begin : begin + 12]))
    believed = interpolation.belief()
    assert (believed.mean[places] == values[places]).all()
    assert np.abs(believed.mean - values)[:1200].max() < 0.3


def test_where_its_memory_is_full_further_values_are_known_in_their_own_place_only(encoded: EncodedSpace) -> None:
    places = np.random.default_rng(2).choice(len(encoded), 60, replace=False).tolist()
    small = Interpolation(encoded, SECONDS_BETWEEN, most_bytes=4 * 50 * len(encoded))
    small.add(some(encoded, places[:50]))
    before = small.belief()
    small.add(some(encoded, places[50:]))
    after = small.belief()
    assert (after.mean[places[50:]] == truth(encoded)[places[50:]]).all()
    others = np.setdiff1d(np.arange(len(encoded)), places)
    # But for their common middle, which the level all but takes away.
    assert np.allclose(before.mean[others], after.mean[others], atol=1e-2)
    assert (before.deviation[others] == after.deviation[others]).all()


def test_more_values_leave_less_in_doubt(encoded: EncodedSpace) -> None:
    places = np.random.default_rng(3).choice(len(encoded), 40, replace=False).tolist()
    interpolation, doubts = Interpolation(encoded, SECONDS_BETWEEN), []
    for part in (places[:2], places[2:10], places[10:]):
        interpolation.add(some(encoded, part))
        doubts.append(interpolation.belief().deviation.mean())
    assert doubts == sorted(doubts, reverse=True)


def test_nothing_added_is_no_belief_at_all(encoded: EncodedSpace) -> None:
    believed = Interpolation(encoded, SECONDS_BETWEEN).belief()
    assert not believed.mean.any() and not believed.deviation.any()
