"""Effects of each choice on time and memory, over recorded sweeps: ``python -m benchmarks.knob_effects``.

Nothing is run: of every sweep in ``benchmarks/search/sweeps`` that a device answered, all pairs of configurations are
compared that differ in one knob alone, with the reference's value and with another one. The table has the median and
the range from the tenth to the ninetieth percentile, and ``results/knob_effects.json`` the same.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from autofit.knobs import KNOBS
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.study.outcome import Outcome
from benchmarks.record import about, write_results
from benchmarks.search.record_sweep import SWEEPS
from benchmarks.search.sweep import Row, Sweep, read_sweep


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A choice against the reference's, all else being equal: ratios of seconds and bytes, one for each pair."""

    knob: str
    value: KnobValue
    times: tuple[float, ...]
    bytes: tuple[float, ...]

    def document(self) -> dict[str, Any]:
        """Medians and ranges."""
        return {
            "knob": self.knob,
            "value": self.value,
            "pairs": len(self.times),
            "time": _spread(self.times),
            "memory": _spread(self.bytes),
        }


def effects_of(sweep: Sweep) -> list[Effect]:
    """Effects of every value that was measured beside the reference's in at least one pair."""
    measured = {config: row for config, row in sweep.by_config.items() if seconds_of(row) is not None}
    effects = []
    for knob in KNOBS:
        for value in dict.fromkeys(config[knob.name] for config in measured):
            if value == knob.reference:
                continue
            pairs = [
                (row, measured[plain])
                for config, row in measured.items()
                if config[knob.name] == value and (plain := _plain(config, knob.name, knob.reference)) in measured
            ]
            if pairs:
                effects.append(
                    Effect(
                        knob=knob.name,
                        value=value,
                        times=tuple(_measured(seconds_of(row)) / _measured(seconds_of(plain)) for row, plain in pairs),
                        bytes=tuple(_measured(_bytes(row)) / _measured(_bytes(plain)) for row, plain in pairs),
                    )
                )
    return effects


def _plain(config: TrainConfig, knob: str, reference: KnobValue) -> TrainConfig:
    return config.replace(**{knob: reference})


def _measured(figure: float | None) -> float:
    assert figure is not None, "only measured configurations are paired"
    return figure


def seconds_of(row: Row) -> float | None:
    """Seconds of a recorded configuration: the median over the passes of its median step; None where a pass failed."""
    if any(answer.outcome is not Outcome.OK or not answer.samples for answer in row.answers):
        return None
    return statistics.median(statistics.median(answer.samples) for answer in row.answers)


def _bytes(row: Row) -> float | None:
    needs = [answer.memory.needed for answer in row.answers if answer.memory is not None]
    return statistics.median(needs) if needs else None


def _spread(ratios: tuple[float, ...]) -> dict[str, float]:
    low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
    return {"median": float(middle), "from": float(low), "to": float(high)}


def main() -> None:
    """Print the tables and write the results."""
    sweeps: dict[str, Any] = {}
    for path in sorted(SWEEPS.glob("*.json.gz")):
        if path.name.startswith("predicted-"):
            continue
        sweep = read_sweep(path)
        documents = [effect.document() for effect in effects_of(sweep)]
        sweeps[sweep.name] = {"about": sweep.about, "configurations": len(sweep.rows), "effects": documents}
        print(f"\n{sweep.name}: {len(sweep.rows)} configurations, {sweep.situation.device.name}\n")
        print("| knob | instead of the reference | pairs | time of a step | memory |")
        print("|---|---|---|---|---|")
        for each in documents:
            time, memory = ("{median:.2f} ({from:.2f} to {to:.2f})".format(**each[what]) for what in ("time", "memory"))
            print(f"| `{each['knob']}` | `{each['value']}` | {each['pairs']} | {time} | {memory} |")
    write_results("knob_effects", {"sweeps": sweeps, **about("python -m benchmarks.knob_effects")})


if __name__ == "__main__":
    main()
