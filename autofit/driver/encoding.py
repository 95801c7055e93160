"""A search space as arrays, so that tens of thousands of configurations are scored at once.

Nothing here holds a ``TrainConfig`` for each configuration: they are made when one is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autofit.knobs import knob
from autofit.knobs.space import SearchSpace
from autofit.knobs.train_config import TrainConfig

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class EncodedSpace:
    """The N configurations of a space, in the order of ``space.configs``.

    ``codes`` (N, K) numbers the values of the K knobs that have more than one; ``log2_sizes`` (N) are the
    micro-batches; ``accumulates`` (N) says whether there is more than one micro-step; ``combinations`` (N)
    numbers what one ladder of micro-batches shares.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.knobs = [name for name, values in space.choices.items() if len(values) > 1]
        places = [list(space.choices).index(name) for name in self.knobs]
        number_of = [{value: n for n, value in enumerate(space.choices[name])} for name in self.knobs]
        rows = [
            [number[values[place]] for place, number in zip(places, number_of, strict=True)]
            for values in space.combinations
        ]
        pairs = len(space.batch_pairs)
        by_combination = np.array(rows, dtype=np.int16).reshape(len(rows), len(self.knobs))
        self.codes = np.repeat(by_combination, pairs, axis=0)
        self.combinations = np.repeat(np.arange(len(rows)), pairs)
        sizes = np.array([size for size, _ in space.batch_pairs])
        steps = np.array([steps for _, steps in space.batch_pairs])
        self.sizes = np.tile(sizes, len(rows))
        self.accumulation_steps = np.tile(steps, len(rows))
        self.log2_sizes: Numbers = np.log2(self.sizes.astype(float))
        self.accumulates: Mask = self.accumulation_steps > 1
        self._place_of_combination = {values: number for number, values in enumerate(space.combinations)}
        self._place_of_pair = {pair: number for number, pair in enumerate(space.batch_pairs)}
        self._rungs, self._apart_from_rung = self._ladder()

    def __len__(self) -> int:
        return len(self.codes)

    def config(self, place: int) -> TrainConfig:
        """The configuration at a place."""
        combination, pair = divmod(int(place), len(self.space.batch_pairs))
        size, steps = self.space.batch_pairs[pair]
        values = dict(zip(self.space.choices, self.space.combinations[combination], strict=True))
        return TrainConfig({"micro_batch_size": size, "accumulation_steps": steps, **values})

    def place(self, config: TrainConfig) -> int:
        """Place of a configuration. Raises KeyError for one that is not in the space."""
        combination = self._place_of_combination[tuple(config[name] for name in self.space.choices)]
        pair = self._place_of_pair[config.micro_batch_size, config.accumulation_steps]
        return combination * len(self.space.batch_pairs) + pair

    def certainly_as_large(self, place: int) -> Mask:
        """Places that certainly need as much memory as one place does, which is among them (``needs_at_least``)."""
        as_large: Mask = (
            (self._apart_from_rung == self._apart_from_rung[place])
            & (self._rungs <= self._rungs[place]).all(axis=1)
            & (self.sizes >= self.sizes[place])
            & (self.accumulates == self.accumulates[place])
        )
        return as_large

    def _ladder(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For each configuration: its rung on each knob, and a number for what has to be equal beside them."""
        rows = [knob(name) for name in self.space.choices]
        groups: dict[Sequence[Any], int] = {}
        rungs, others = [], []
        for values in self.space.combinations:
            own = [row.choice(value).rung for row, value in zip(rows, values, strict=True)]
            rungs.append([rung or 0 for rung in own])
            apart = tuple(value if rung is None else "" for value, rung in zip(values, own, strict=True))
            others.append(groups.setdefault(apart, len(groups)))
        pairs = len(self.space.batch_pairs)
        laddered = np.array(rungs)
        laddered = laddered[:, laddered.any(axis=0)]
        return np.repeat(laddered, pairs, axis=0), np.repeat(np.array(others), pairs)
