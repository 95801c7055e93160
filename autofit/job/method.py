"""Training methods: all of the model, or low-rank adapters beside frozen weights.

A method is the user's choice and never searched.
"""

from __future__ import annotations

from dataclasses import dataclass

from autofit.errors import UserError

METHODS = ("full", "lora", "qlora")
PACKAGES_OF: dict[str, tuple[str, ...]] = {"full": (), "lora": ("peft",), "qlora": ("peft", "bitsandbytes")}
"""Packages that each method needs."""
FROZEN_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """LoRA's settings, as PEFT has them. ``targets`` is ``all-linear`` or module names apart by commas.

    ``frozen_dtype`` is what frozen weights are stored in; ``auto`` is what the precision multiplies in, so
    16 bits under autocast and 32 otherwise. With qlora that goes for what is not in 4 bits.

    Defaults: rank 16 with alpha twice the rank on every linear layer, which is what the QLoRA paper found
    to match full fine-tuning (arXiv 2305.14314, section 4; rank made no difference there).
    """

    rank: int = 16
    alpha: int = 32
    targets: str = "all-linear"
    dropout: float = 0.0
    frozen_dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"--lora-rank must be at least 1, not {self.rank}.")
        if self.frozen_dtype not in FROZEN_DTYPES:
            raise UserError(f"--frozen-dtype takes {', '.join(FROZEN_DTYPES)}; not '{self.frozen_dtype}'.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--lora-dropout must be from 0 to below 1, not {self.dropout}.")
