"""In how many bits weights are kept and matrices multiplied."""

from __future__ import annotations

from autofit.knobs.availability import first_of, needs_cuda
from autofit.knobs.knob import Choice, Knob
from autofit.numerics import Numerics
from autofit.situation import Situation


def _bf16_unavailable(situation: Situation) -> str | None:
    return None if situation.device.kind == "cpu" else needs_cuda("bf16 arithmetic", (8, 0))(situation)


def _not_with_4_bit_weights(situation: Situation) -> str | None:
    if situation.workload.method != "qlora":
        return None
    return "4-bit weights are computed with in 16 bits; qlora has no other precision"


def _not_with_adapters(situation: Situation) -> str | None:
    if situation.workload.method == "full":
        return None
    return f"with {situation.workload.method} the trained weights are small and stay in fp32"


PRECISION = Knob(
    name="precision",
    title="precision",
    question="In how many bits are weights kept and matrices multiplied?",
    reference="fp32",
    choices=(
        Choice(
            value="bf16",
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
            title="fp16 autocast over fp32 weights, with loss scaling",
            training_arguments={"fp16": True},
            model_kwargs={"dtype": "float32"},
            numerics=Numerics.MIXED,
            unavailable=needs_cuda("fp16 with loss scaling", (5, 3)),
            half_precision=True,
            frozen_dtype="float16",
        ),
        Choice(
            value="tf32",
            title="fp32 weights, matrix products in tf32",
            training_arguments={"tf32": True},
            model_kwargs={"dtype": "float32"},
            numerics=Numerics.MIXED,
            unavailable=first_of(_not_with_4_bit_weights, needs_cuda("tf32", (8, 0))),
        ),
        Choice(
            value="fp32",
            title="fp32 throughout",
            model_kwargs={"dtype": "float32"},
            unavailable=_not_with_4_bit_weights,
        ),
        Choice(
            value="pure_bf16",
            title="bf16 weights, gradients and optimizer state, no fp32 copy",
            model_kwargs={"dtype": "bfloat16"},
            numerics=Numerics.PURE,
            unavailable=first_of(_not_with_adapters, _bf16_unavailable),
            half_precision=True,
            frozen_dtype="bfloat16",
        ),
    ),
)
