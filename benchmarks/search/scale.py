"""Cost of a proposal in a space of more than 50,000 configurations: ``python -m benchmarks.search.scale``.

The predictions are made up here, so that the time is the sampler's own. Prints seconds for each proposal and how much
resident memory grows over 40 of them.
"""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace

import psutil

from autofit.driver.encoding import EncodedSpace
from autofit.driver.observation import Observation
from autofit.driver.sampler import AutofitSampler, NothingWorthwhileError
from autofit.knobs import KNOBS
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import TrainConfig
from autofit.study.prediction import Prediction, Verdict
from autofit.units import GIB
from benchmarks.record import write_results
from benchmarks.search.record_sweep import SWEEPS
from benchmarks.search.sweep import read_sweep

EFFECTIVE_BATCH = 64
PROPOSALS = 40


class MadeUp:
    """Some order of the knobs' values, by their place in the table."""

    def seconds(self, config: TrainConfig) -> float:
        places = [[choice.value for choice in row.choices].index(config[row.name]) for row in KNOBS]
        return float((1 + 0.07 * sum(places)) * (1 + 1 / config.micro_batch_size))

    def plain(self, configs: Sequence[TrainConfig]) -> list[Prediction | None]:
        size = GIB
        return [
            Prediction(
                verdict=Verdict.FITS,
                bytes_by_category={"live": size * config.micro_batch_size // 10},
                live_bytes=size * config.micro_batch_size // 10,
                total_bytes=size * config.micro_batch_size // 10,
                step_seconds=(self.seconds(config),) * 2,
            )
            for config in configs
        ]


def main() -> int:
    """Propose, measure by formula, propose again."""
    situation = read_sweep(SWEEPS / "predicted-llama.json.gz").situation
    situation = replace(situation, workload=replace(situation.workload, effective_batch=EFFECTIVE_BATCH))
    space = SearchSpace(situation, SpaceRequest())
    began = time.perf_counter()
    sampler, encoded, truth = AutofitSampler(space, MadeUp()), EncodedSpace(space), MadeUp()
    building = time.perf_counter() - began
    start = space.at_micro_batch(encoded.config(0), 8)
    observations = {encoded.place(start): _observed(truth, start, 0)}
    process, took, resident = psutil.Process(), [], []
    for number in range(1, PROPOSALS + 1):
        began = time.perf_counter()
        try:
            place = sampler.propose(observations)
        except NothingWorthwhileError:
            break
        took.append(time.perf_counter() - began)
        resident.append(process.memory_info().rss)
        observations[place] = _observed(truth, encoded.config(place), number)
    figures = {
        "configurations": len(space),
        "building_seconds": building,
        "proposals": len(took),
        "first_proposal_seconds": took[0],
        "median_proposal_seconds": statistics.median(took),
        "slowest_later_proposal_seconds": max(took[1:]),
        "resident_growth_bytes": resident[-1] - resident[0],
        "resident_growth_of_the_second_half_bytes": resident[-1] - resident[len(resident) // 2],
        "resident_bytes": resident[-1],
    }
    for name, value in figures.items():
        print(f"{name:34} {value:,.3f}" if isinstance(value, float) else f"{name:34} {value:,}")
    write_results("search_scale", figures)
    return 0


def _observed(truth: MadeUp, config: TrainConfig, number: int) -> Observation:
    """Seconds that effects unknown to the predictions move by a few percent."""
    factor = 1 + 0.03 * ((zlib.crc32(config.key.encode()) % 7) - 3) / 3
    return Observation(
        outcome="ok",
        seconds=truth.seconds(config) * factor,
        uncertainty=0.01,
        needed_bytes=GIB * config.micro_batch_size // 10 + number,
        wall_seconds=5.0,
        timed_seconds=3.0,
    )


if __name__ == "__main__":
    raise SystemExit(main())
