"""Everything a knob may look at when it decides whether it applies: workload, device, libraries, model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autofit.device.device import Device, Libraries
from autofit.errors import UserError
from autofit.job.method import PACKAGES_OF
from autofit.job.program import Program
from autofit.job.workload import Workload
from autofit.units import format_bytes, parse_bytes, share_of


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts of the model, learned by building it on the meta device, where it costs no memory.

    ``trainable_parameters`` are all of them, or the adapters'. ``max_positions`` is None for models without
    a limit; ``attention`` lists the implementations the model's class supports; ``embedding_parameters`` is
    a part of ``num_parameters``. ``checkpointable_layers`` is None where layers cannot be chosen one by one;
    ``checkpointing_options`` says that checkpointing takes ``every_n_layers`` and ``offload`` (transformers 5.17).
    ``keeps_documents_apart`` says that several samples may share a row, told apart by their positions;
    ``liger_supports`` that liger-kernel is installed and has kernels for it; ``has_experts`` that tokens
    are routed; ``drops_attention`` that attention scores are dropped in training. ``counts_items`` says
    that its loss is a sum over the whole step's labels by their number; otherwise it is a mean over each micro-batch.
    """

    model_type: str
    num_parameters: int
    embedding_parameters: int
    trainable_parameters: int
    vocabulary_size: int
    max_positions: int | None
    supports_checkpointing: bool
    attention: tuple[str, ...]
    checkpointable_layers: int | None = None
    checkpointing_options: bool = True
    keeps_documents_apart: bool = False
    liger_supports: bool = False
    has_experts: bool = False
    counts_items: bool = True
    drops_attention: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Share of the device that a configuration may use.

    ``memory_bytes`` is the size of card to fit on (the device's own unless ``--memory-limit`` asked
    for a smaller one); ``headroom`` is the share of it that must stay free.
    """

    memory_bytes: int
    headroom: float = 0.05

    @classmethod
    def of(cls, device: Device, memory_limit: str | int | None, headroom: str | float) -> Limits:
        """The limits that a user asked for on a device, as numbers or text. Raises UserError."""
        wanted = parse_bytes(memory_limit) if isinstance(memory_limit, str) else memory_limit
        return cls(
            memory_bytes=device.memory_bytes if wanted is None else wanted,
            headroom=share_of(headroom),
        )

    @property
    def usable_bytes(self) -> int:
        """Bytes that a trial may use at most, context included."""
        return int(self.memory_bytes * (1 - self.headroom))

    def with_memory(self, memory_bytes: int) -> Limits:
        """The same headroom on a card of another size."""
        return replace(self, memory_bytes=memory_bytes)

    def memory_for(self, needed_bytes: int) -> float:
        """Size of the smallest card that leaves so much beside the headroom, in bytes."""
        return needed_bytes / (1 - self.headroom)

    def check(self, device: Device) -> None:
        """Raises UserError where the device has less."""
        if self.memory_bytes > device.memory_bytes:
            raise UserError(
                f"--memory-limit {format_bytes(self.memory_bytes)} is more than {device.name} has "
                f"({format_bytes(device.memory_bytes)}); leave it out to use all of it."
            )


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One study's fixed surroundings. Raises UserError where the parts contradict each other.

    ``program`` is the user's own where the training is that of one, and not built from the workload.
    """

    workload: Workload
    device: Device
    libraries: Libraries
    model: ModelFacts
    limits: Limits
    program: Program | None = None

    def __post_init__(self) -> None:
        self.limits.check(self.device)
        for package in PACKAGES_OF[self.workload.method]:
            if package in self.libraries.missing:
                raise UserError(f"--method {self.workload.method}: {self.libraries.missing[package]}.")
        longest = self.model.max_positions
        if longest is not None and self.workload.sequence_length > longest:
            raise UserError(
                f"Samples of {self.workload.sequence_length} tokens are longer than the {longest} positions of "
                f"{self.workload.model}; choose --seq-len or --max-length {longest} or less."
            )

    @property
    def memory_is_emulated(self) -> bool:
        """True if a smaller card than the present one is asked for."""
        return self.limits.memory_bytes < self.device.memory_bytes

    def without_limit(self) -> Situation:
        """The same with the whole device and no headroom."""
        return replace(self, limits=Limits(memory_bytes=self.device.memory_bytes, headroom=0.0))
