"""The space as arrays says what the space says."""

from __future__ import annotations

import numpy as np

from autofit.driver.encoding import EncodedSpace
from autofit.knobs.space import SearchSpace, SpaceRequest, needs_at_least
from tests.doubles import make_config, make_situation
from tests.driver.test_strategy import gpu_space


def test_every_configuration_has_its_own_place_in_the_order_of_the_space() -> None:
    space = gpu_space(effective_batch=6)
    encoded = EncodedSpace(space)
    assert len(encoded) == len(space)
    assert [encoded.config(place) for place in range(len(encoded))] == list(space.configs)
    assert [encoded.place(config) for config in space.configs] == list(range(len(space)))


def test_a_configuration_outside_has_no_place() -> None:
    encoded = EncodedSpace(SearchSpace(make_situation(), SpaceRequest(forbid={"attention": ("eager",)})))
    for outside in (make_config(attention="eager"), make_config(micro_batch_size=5, accumulation_steps=3)):
        try:
            encoded.place(outside)
        except KeyError:
            continue
        raise AssertionError(outside)


def test_what_certainly_needs_as_much_is_what_the_space_says() -> None:
    space = gpu_space(effective_batch=6)
    encoded = EncodedSpace(space)
    for place in range(0, len(space), 37):
        expected = [needs_at_least(config, space.configs[place]) for config in space.configs]
        assert np.array_equal(encoded.certainly_as_large(place), expected)
