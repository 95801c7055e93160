"""The optimizer: its algorithm, its implementation, and the bits its state is kept in.

State in bytes per parameter: two fp32 moments are 8; bitsandbytes keeps one byte a moment and a float per
block of 256 (2.03), torchao the same (8 bit) or half a byte and a float per block of 256 (4 bit, as transformers asks).
"""

from __future__ import annotations

from typing import Any

from autofit.device.kinds import kind_of
from autofit.job.situation import Situation
from autofit.knobs.availability import first_of, missing, needs_cuda
from autofit.knobs.knob import Choice, Knob
from autofit.knobs.numerics import Numerics

REFERENCE = "adamw_torch_fused"
ADAFACTOR = "adafactor"
SMALLER_STATE = "adamw_8bit"
"""The same algorithm with the smallest state that is kept on the device."""


def _paging_is_pointless(situation: Situation) -> str | None:
    if kind_of(situation.device).is_host:
        return "paging moves optimizer state between a GPU and its host; here the state is in the host's memory"
    return None


def _choice(
    optim: str,
    title: str,
    state_bytes: float,
    numerics: Numerics = Numerics.EXACT,
    needs: str = "",
    **settings: Any,
) -> Choice:
    paged = optim.startswith("paged")
    reasons = [missing(needs)] if needs else []
    if paged:
        reasons.append(_paging_is_pointless)
    if needs == "torchao":
        reasons += [needs_cuda("torchao's optimizer, whose update is compiled,"), missing("inductor")]
    return Choice(
        value=optim,
        title=title,
        training_arguments={"optim": optim},
        numerics=numerics,
        unavailable=first_of(*reasons),
        state_bytes=state_bytes,
        paged_state=paged,
        is_compiled=needs == "torchao",
        package=needs,
        # Run with FSDP2 on two processes (torch 2.13, bitsandbytes 0.50): its operators have no sharding strategy.
        steps_parts=needs != "bitsandbytes" and optim != ADAFACTOR,
        # It would find no matrix to factor.
        steps_flat=optim != ADAFACTOR,
        **settings,
    )


_8BIT = 2 + 2 * 4 / 256
_4BIT = 1 + 2 * 4 / 256

OPTIMIZER = Knob(
    name="optimizer",
    title="optimizer",
    question="Which optimizer, and in how many bits is its state kept?",
    reference=REFERENCE,
    choices=(
        _choice(REFERENCE, "torch's fused AdamW", 8, planned=0),
        _choice(
            SMALLER_STATE,
            "bitsandbytes' AdamW, 8-bit state",
            _8BIT,
            Numerics.QUANTIZED_STATE,
            "bitsandbytes",
            planned=1,
        ),
        _choice(
            "paged_adamw_8bit",
            "the same, paged under pressure",
            _8BIT,
            Numerics.QUANTIZED_STATE,
            "bitsandbytes",
            planned=2,
            # A paged state has the blocks of one that is not.
            traced_as=SMALLER_STATE,
        ),
        _choice("paged_adamw_32bit", "AdamW, state paged under pressure", 8, needs="bitsandbytes"),
        _choice("adamw_torch", "torch's AdamW, one kernel per operation (foreach on GPUs)", 8),
        _choice(
            "adamw_torch_8bit",
            "torchao's AdamW, 8-bit state",
            _8BIT,
            Numerics.QUANTIZED_STATE,
            "torchao",
        ),
        _choice(
            "adamw_torch_4bit",
            "torchao's AdamW, 4-bit state",
            _4BIT,
            Numerics.QUANTIZED_STATE,
            "torchao",
        ),
        _choice(ADAFACTOR, "factored second moment, no first one", 0.1, Numerics.OTHER_ALGORITHM, planned=3),
        _choice(
            "lion_8bit",
            "bitsandbytes' Lion, 8-bit state",
            _8BIT / 2,
            Numerics.OTHER_ALGORITHM,
            "bitsandbytes",
            planned=4,
        ),
    ),
)
