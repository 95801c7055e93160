"""The training jobs that are measured, each with the bounded part of its space that is swept.

Models come from the built-in table of configurations, so nothing is fetched. A space holds at most 150 configurations,
which is what one call of ten minutes has time for at three to four seconds each.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from autofit.knobs import KNOBS
from autofit.units import GIB

SMALL_MODEL = "examples/small-llama"
LIMITS = (16 * GIB, 24 * GIB, 80 * GIB)


def real_lengths(longest: int, number: int = 4000) -> list[int]:
    """Lengths as texts have them: their logarithms normal, a third of the longest in the median, cut."""
    drawn = random.Random(0)
    return [min(longest, max(16, round(longest / 3 * drawn.lognormvariate(0, 0.6)))) for _ in range(number)]


@dataclass(frozen=True, kw_only=True)
class Job:
    """``job`` is what ``autofit.search`` takes; ``only`` the values of those knobs that are not left whole; ``limits``
    are the cards to fit on, in bytes."""

    name: str
    job: dict[str, Any]
    only: dict[str, list[str]] = field(default_factory=dict)
    limits: tuple[int, ...] = LIMITS
    passes: int = 1

    @property
    def wanted(self) -> dict[str, Any]:
        """Keywords of ``autofit.search`` for the space."""
        forbidden = {
            row.name: [choice.value for choice in row.choices if choice.value not in self.only[row.name]]
            for row in KNOBS
            if row.name in self.only
        }
        return {
            # Named, so that a value of a looser class is in as well.
            "allow": self.only,
            "forbid": {name: values for name, values in forbidden.items() if values},
        }


_LADDER = {"activation_checkpointing": ["off", "every_2nd", "every_layer"], "allocator": ["default"]}
_PLAIN = {"compile": ["off"], "kernels": ["default"]}
FULL_JOBS = (
    Job(
        name="smollm2-135m-fixed",
        job={"model": "HuggingFaceTB/SmolLM2-135M", "effective_batch": 32, "seq_len": 512},
        only={
            **_LADDER,
            **_PLAIN,
            "precision": ["bf16", "tf32"],
            "attention": ["sdpa", "eager"],
            "optimizer": ["adamw_torch_fused", "adamw_8bit"],
        },
        passes=2,
    ),
    Job(
        name="smollm2-135m-real-lengths",
        job={"model": "HuggingFaceTB/SmolLM2-135M", "effective_batch": 32, "lengths": real_lengths(512)},
        only={
            **_PLAIN,
            "activation_checkpointing": ["off", "every_layer"],
            "allocator": ["default"],
            "precision": ["bf16"],
            "attention": ["sdpa", "flash_attention_2", "torch_varlen", "flex_attention"],
            "batch_layout": ["dynamic_padding", "group_by_length", "flattened", "packed"],
            "optimizer": ["adamw_torch_fused"],
        },
    ),
    Job(
        name="qwen3-0.6b-fixed",
        job={"model": "Qwen/Qwen3-0.6B", "effective_batch": 32, "seq_len": 1024},
        only={
            **_LADDER,
            **_PLAIN,
            "precision": ["bf16"],
            "attention": ["sdpa", "eager"],
            "optimizer": ["adamw_torch_fused", "adamw_8bit", "adafactor"],
        },
    ),
    Job(
        name="qwen3-0.6b-compiled",
        job={"model": "Qwen/Qwen3-0.6B", "effective_batch": 8, "seq_len": 1024},
        only={
            "activation_checkpointing": ["off"],
            "allocator": ["default"],
            "precision": ["bf16"],
            "attention": ["sdpa"],
            "optimizer": ["adamw_torch_fused"],
            "compile": ["off", "inductor"],
            "kernels": ["default", "liger"],
        },
        limits=(24 * GIB,),
    ),
    Job(
        name="llama-3.2-1b-fixed",
        job={"model": "meta-llama/Llama-3.2-1B", "effective_batch": 16, "seq_len": 2048},
        only={
            **_LADDER,
            **_PLAIN,
            "precision": ["bf16"],
            "attention": ["sdpa"],
            "optimizer": ["adamw_torch_fused", "adamw_8bit", "adafactor"],
        },
        limits=(24 * GIB, 80 * GIB),
    ),
    Job(
        name="modernbert-classification",
        job={
            "model": "answerdotai/ModernBERT-base",
            "effective_batch": 32,
            "seq_len": 512,
            "task": "sequence-classification",
        },
        only={
            **_LADDER,
            **_PLAIN,
            "precision": ["bf16", "tf32"],
            "attention": ["sdpa"],
            "optimizer": ["adamw_torch_fused", "adamw_torch"],
        },
        limits=(16 * GIB,),
    ),
    Job(
        name="llama-3.1-8b-lora",
        job={"model": "meta-llama/Llama-3.1-8B", "effective_batch": 16, "seq_len": 1024, "method": "lora"},
        only={**_LADDER, **_PLAIN, "precision": ["bf16"], "attention": ["sdpa"], "optimizer": ["adamw_torch_fused"]},
        limits=(24 * GIB, 80 * GIB),
    ),
)
SMALL_JOBS = (
    Job(
        name="small-llama-fixed",
        job={"model": SMALL_MODEL, "effective_batch": 4, "seq_len": 64},
        only={
            **_PLAIN,
            "precision": ["fp32"],
            "attention": ["sdpa"],
            "activation_checkpointing": ["off", "every_layer"],
            "optimizer": ["adamw_torch_fused"],
        },
        limits=(2**30,),
    ),
)
"""The same parts on a CPU: that every line runs, not figures to quote."""


def jobs_for(*, is_small: bool) -> tuple[Job, ...]:
    """All jobs of a form."""
    return SMALL_JOBS if is_small else FULL_JOBS
