"""Part 6: what courses say of memory and speed, beside what this device measured.

Activation memory is what one more sample in the micro-batch adds to the peak, so weights and state do not hide it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autofit.driver.workers import Workers
from autofit.job.request import JobRequest
from autofit.knobs import completed
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.study.measurement import Measurement
from autofit.trial.protocol import MeasuringPlan
from benchmarks.gpu.bench import Bench, PartResult
from benchmarks.gpu.jobs import SMALL_MODEL, real_lengths

PLAN = MeasuringPlan(patience_seconds=1.0)
NOT_HERE = "cannot be had here"


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """A model and a length, small enough that every configuration below fits."""

    model: str
    effective_batch: int
    length: int
    plain: dict[str, KnobValue]
    few: int
    many: int


_FULL = _Setting(
    model="meta-llama/Llama-3.2-1B",
    effective_batch=8,
    length=1024,
    plain={"precision": "bf16", "optimizer": "adamw_torch_fused", "attention": "sdpa"},
    few=2,
    many=4,
)
_SMALL = _Setting(
    model=SMALL_MODEL,
    effective_batch=8,
    length=64,
    plain={"precision": "fp32", "optimizer": "adamw_torch_fused", "attention": "sdpa"},
    few=4,
    many=8,
)

_PLAIN: dict[str, KnobValue] = {"compile": "off", "kernels": "default", "activation_checkpointing": "off"}


def run(bench: Bench) -> PartResult:
    """Measure each claim once; those that are done are kept."""
    setting = _SMALL if bench.is_small else _FULL
    claims = (_checkpointing, _state, _precision, _attention, _packing)
    with contextlib.ExitStack() as stack:
        lengths = _Lengths(bench, setting, stack)
        found = [
            bench.item("lesson", claim.__name__.strip("_"), functools.partial(_rows, claim, lengths, setting))
            for claim in claims
        ]
    rows = [row for each in found if each is not None for row in each.get("rows", ())]
    for row in rows:
        print(f"{row['said']:64} {row['measured']}", flush=True)
    is_complete = all(each is not None and each["is_complete"] for each in found)
    return PartResult(figures={"model": setting.model, "length": setting.length, "rows": rows}, is_complete=is_complete)


def _rows(
    claim: Callable[[_Lengths, _Setting], list[dict[str, Any]]], lengths: _Lengths, setting: _Setting
) -> dict[str, Any]:
    return {"rows": claim(lengths, setting)}


class _Measurer:
    """Runs changes of the plain configuration; None for one that cannot be had or did not run."""

    def __init__(self, setting: _Setting, workers: Workers) -> None:
        self._setting = setting
        self._situation = workers.probe()
        self._space = SearchSpace(self._situation, SpaceRequest(numerics="standard"))
        self._runner = workers.runner(self._situation)

    def __call__(self, size: int, **changes: KnobValue) -> Measurement | None:
        setting = self._setting
        first = {name: values[0] for name, values in self._space.choices.items()}
        values = {
            **first,
            "compile": "off",
            "kernels": "default",
            "activation_checkpointing": "off",
            **setting.plain,
            **changes,
        }
        split: dict[str, KnobValue] = {
            "micro_batch_size": size,
            "accumulation_steps": setting.effective_batch // size,
        }
        config = TrainConfig(completed({**split, **values}))
        if config not in self._space:
            return None
        return self._runner.run(recipe_for(config, self._situation), PLAN, "lesson").measurement

    def per_sample(self, **changes: KnobValue) -> float | None:
        """Bytes that one more sample in the micro-batch adds to the peak."""
        few, many = self(self._setting.few, **changes), self(self._setting.many, **changes)
        if few is None or many is None:
            return None
        grown = many.memory.peak_allocated - few.memory.peak_allocated
        return grown / (self._setting.many - self._setting.few)


class _Lengths:
    """A measurer for each way of giving lengths, made when it is first asked for."""

    def __init__(self, bench: Bench, setting: _Setting, stack: contextlib.ExitStack) -> None:
        self._bench, self._setting, self._stack = bench, setting, stack
        self._made: dict[str, _Measurer] = {}

    def all_of(self, length: int) -> _Measurer:
        """Every sample has this length."""
        return self._measurer(f"{length}", seq_len=length)

    def as_texts_have_them(self) -> _Measurer:
        """Up to the setting's length."""
        return self._measurer("real", lengths=real_lengths(self._setting.length, 400))

    def _measurer(self, name: str, **job: Any) -> _Measurer:
        if name not in self._made:
            setting, scratch = self._setting, self._bench.scratch("lesson")
            record = JobRequest(
                model=setting.model, effective_batch=setting.effective_batch, device=self._bench.device, **job
            ).record()
            workers = Workers(record, scratch / name, scratch / "traces", print, most_seconds=180)
            self._made[name] = _Measurer(setting, self._stack.enter_context(workers))
        return self._made[name]


def _checkpointing(lengths: _Lengths, setting: _Setting) -> list[dict[str, Any]]:
    measure = lengths.all_of(setting.length)
    plain, saved = measure.per_sample(), measure.per_sample(activation_checkpointing="every_layer")
    before, after = measure(setting.many), measure(setting.many, activation_checkpointing="every_layer")
    return [
        _ratio("checkpointing: activation memory 4 to 5 times smaller", plain, saved, "times smaller"),
        _ratio("checkpointing: 20 to 30 % more time", _seconds(after), _seconds(before), "times as long"),
    ]


def _state(lengths: _Lengths, setting: _Setting) -> list[dict[str, Any]]:
    measure = lengths.all_of(setting.length)
    full, small = measure(1), measure(1, optimizer="adamw_8bit")
    said = "8-bit optimizer: state of a 1B model from 8 GB to 2 GB"
    if full is None or small is None:
        return [{"said": said, "measured": NOT_HERE}]
    less = full.memory.peak_allocated - small.memory.peak_allocated
    return [{"said": said, "measured": f"the peak is {less / 1e9:.2f} GB smaller", "bytes": less}]


def _precision(lengths: _Lengths, setting: _Setting) -> list[dict[str, Any]]:
    measure = lengths.all_of(setting.length)
    mixed, full = measure(setting.many, precision="bf16"), measure(setting.many, precision="fp32")
    return [
        _ratio("mixed precision: faster than float32", _seconds(full), _seconds(mixed), "times as fast"),
        _ratio("mixed precision: less memory", _peak(mixed), _peak(full), "times the peak in float32"),
    ]


def _attention(lengths: _Lengths, setting: _Setting) -> list[dict[str, Any]]:
    rows = []
    for attention, said in (
        ("eager", "eager attention: quadratic in the length"),
        ("sdpa", "flash attention: linear in the length"),
    ):
        once, twice = (
            lengths.all_of(length).per_sample(attention=attention) for length in (setting.length, 2 * setting.length)
        )
        rows.append(_ratio(said, twice, once, "times the activations at twice the length"))
    return rows


def _packing(lengths: _Lengths, setting: _Setting) -> list[dict[str, Any]]:
    measure = lengths.as_texts_have_them()
    padded = measure(setting.many, batch_layout="dynamic_padding")
    rows = []
    for layout in ("packed", "flattened"):
        found = measure(setting.many, batch_layout=layout)
        if found is None and layout == "flattened":
            found = measure(setting.many, batch_layout=layout, attention="torch_varlen")
        said = f"{layout}: faster than padding to the longest of a micro-batch"
        rows.append(_ratio(said, _seconds(padded), _seconds(found), "times as fast"))
    return rows


def _ratio(said: str, above: float | None, below: float | None, words: str) -> dict[str, Any]:
    if not above or not below:
        return {"said": said, "measured": NOT_HERE}
    return {"said": said, "measured": f"{above / below:.2f} {words}", "ratio": above / below}


def _seconds(measurement: Measurement | None) -> float | None:
    return None if measurement is None else measurement.step_seconds


def _peak(measurement: Measurement | None) -> float | None:
    return None if measurement is None else float(measurement.memory.peak_allocated)
