"""One point of the search space: a value for every knob."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

KnobValue = str | int | bool


class TrainConfig(Mapping[str, KnobValue]):
    """Knob name -> value; immutable, hashable, with a key that is the same in every process and release."""

    def __init__(self, values: Mapping[str, KnobValue]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> KnobValue:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrainConfig) and self._values == other._values

    def __repr__(self) -> str:
        return f"TrainConfig({self.key})"

    @property
    def key(self) -> str:
        """``accumulation_steps=4 attention=sdpa ...``, sorted by name."""
        return " ".join(f"{name}={self._values[name]}" for name in sorted(self._values))

    @property
    def micro_batch_size(self) -> int:
        """Samples per forward and backward pass on one device."""
        return int(self._values["micro_batch_size"])

    @property
    def accumulation_steps(self) -> int:
        """Forward and backward passes per optimizer step."""
        return int(self._values["accumulation_steps"])

    @property
    def split(self) -> str:
        """Micro-batch and accumulation as people read them: ``8 x 2``."""
        return f"{self.micro_batch_size} x {self.accumulation_steps}"

    def replace(self, **changes: KnobValue) -> TrainConfig:
        """A copy with some values changed."""
        return TrainConfig({**self._values, **changes})

    def combination(self) -> tuple[tuple[str, KnobValue], ...]:
        """Everything but the split of the effective batch: what one ladder of micro-batches shares."""
        batch = ("micro_batch_size", "accumulation_steps")
        return tuple(sorted((name, value) for name, value in self._values.items() if name not in batch))
