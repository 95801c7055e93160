"""In how many bits weights are kept and matrices multiplied.

Of a precision's tolerances: rounding once costs 6e-8 (fp32), 5e-4 (tf32, fp16: 11 bits) or 4e-3 (bf16: 8 bits); a loss
averages over many tokens and a gradient norm adds up long sums. Broken accumulation moves them by far more (5e-4 of the
loss and tens of percent of the norm were measured without num_items_in_batch on lengths that vary).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autofit.device.kinds import kind_of
from autofit.job.situation import Situation
from autofit.knobs.availability import first_of, missing, needs_cuda
from autofit.knobs.knob import Choice, Knob
from autofit.knobs.numerics import Numerics


def _bf16_unavailable(situation: Situation) -> str | None:
    return None if kind_of(situation.device).is_host else needs_cuda("bf16 arithmetic", (8, 0))(situation)


def _not_with_4_bit_weights(situation: Situation) -> str | None:
    if situation.workload.method != "qlora":
        return None
    return "4-bit weights are computed with in 16 bits; qlora has no other precision"


def _not_with_adapters(situation: Situation) -> str | None:
    if situation.workload.method == "full":
        return None
    return f"with {situation.workload.method} the trained weights are small and stay in fp32"


PURE_BF16, TF32, FULL = "pure_bf16", "tf32", "fp32"

PRECISION = Knob(
    name="precision",
    title="precision",
    question="In how many bits are weights kept and matrices multiplied?",
    reference=FULL,
    choices=(
        Choice(
            value="bf16",
            planned=0,
            tolerances=(5e-3, 3e-2),
            title="bf16 autocast over fp32 weights",
            training_arguments={"bf16": True},
            model_kwargs={"dtype": "float32"},
            numerics=Numerics.MIXED,
            unavailable=_bf16_unavailable,
            half_precision=True,
            frozen_dtype="bfloat16",
        ),
        Choice(
            value="fp16",
            planned=1,
            tolerances=(1e-3, 1e-2),
            title="fp16 autocast over fp32 weights, with loss scaling",
            training_arguments={"fp16": True},
            model_kwargs={"dtype": "float32"},
            numerics=Numerics.MIXED,
            unavailable=needs_cuda("fp16 with loss scaling", (5, 3)),
            half_precision=True,
            frozen_dtype="float16",
        ),
        Choice(
            value=TF32,
            planned=2,
            tolerances=(1e-3, 1e-2),
            title="fp32 weights, matrix products in tf32",
            training_arguments={"tf32": True},
            model_kwargs={"dtype": "float32"},
            numerics=Numerics.MIXED,
            unavailable=first_of(_not_with_4_bit_weights, needs_cuda("tf32", (8, 0)), missing("tf32")),
        ),
        Choice(
            value=FULL,
            planned=3,
            tolerances=(1e-5, 1e-4),
            title="fp32 throughout",
            model_kwargs={"dtype": "float32"},
            unavailable=_not_with_4_bit_weights,
        ),
        Choice(
            value=PURE_BF16,
            tolerances=(1e-2, 5e-2),
            title="bf16 weights, gradients and optimizer state, no fp32 copy",
            model_kwargs={"dtype": "bfloat16"},
            numerics=Numerics.PURE,
            unavailable=first_of(_not_with_adapters, _bf16_unavailable),
            half_precision=True,
            frozen_dtype="bfloat16",
        ),
    ),
)


def with_tf32_of_compiling(settings: Mapping[str, Any], situation: Situation) -> dict[str, Any]:
    """Settings with tf32 where a training in fp32 compiles: accelerate switches it on, whatever ``tf32`` says.

    Source: accelerate 1.15, state.py. TrainingArguments do the same where it is left open.
    """
    compiles_in_fp32 = settings.get("torch_compile") and not settings.get("bf16") and not settings.get("fp16")
    switched_on = compiles_in_fp32 and not PRECISION.choice(TF32).unavailable(situation)
    return {**settings, "tf32": True} if switched_on else dict(settings)
