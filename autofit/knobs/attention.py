"""The implementation of attention."""

from __future__ import annotations

from typing import Any

from autofit.device.kinds import kind_of
from autofit.job.situation import Situation
from autofit.knobs.availability import first_of, missing, needs_cuda
from autofit.knobs.batch_layout import BATCH_LAYOUT, FLATTENED
from autofit.knobs.knob import Choice, Knob, Unavailable

FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
PLAIN, PLAINEST, TORCH_VARLEN, FLEX = "sdpa", "eager", "torch_varlen", "flex_attention"
VARLEN = (*FLASH, TORCH_VARLEN, FLEX)
"""Implementations that compute nothing for pairs of tokens of different documents in a flattened batch."""


def _unsupported_by_model(implementation: str) -> Unavailable:
    def unavailable(situation: Situation) -> str | None:
        if implementation in situation.model.attention:
            return None
        return f"{situation.model.model_type} models do not support {implementation}"

    return unavailable


def _flex_unavailable(situation: Situation) -> str | None:
    if situation.model.drops_attention:
        return "transformers' flex_attention drops no attention scores, and this model's configuration asks for that"
    return first_of(needs_cuda("the backward pass of flex_attention"), missing("inductor"))(situation)


def _nothing_is_flattened(situation: Situation) -> str | None:
    reason = BATCH_LAYOUT.choice(FLATTENED).unavailable(situation)
    return None if reason is None else f"it is for flattened batches, and {reason}"


def _old_card(situation: Situation) -> str | None:
    return None if kind_of(situation.device).is_host else needs_cuda("torch_varlen", (8, 0))(situation)


def _between_ampere_and_hopper(situation: Situation) -> str | None:
    """The cards that flash-attention's hopper/setup.py compiles kernels for."""
    if (situation.device.compute_capability or (0, 0)) >= (10, 0):
        return f"flash_attention_3 has no kernels for {situation.device.name}"
    return needs_cuda("flash_attention_3", (8, 0))(situation)


def _choice(implementation: str, title: str, *needs: Unavailable, **settings: Any) -> Choice:
    return Choice(
        value=implementation,
        title=title,
        model_kwargs={"attn_implementation": implementation},
        unavailable=first_of(*needs, missing(implementation), _unsupported_by_model(implementation)),
        **settings,
    )


ATTENTION = Knob(
    name="attention",
    title="attention",
    question="Which kernel computes attention?",
    reference=PLAIN,
    choices=(
        _choice(PLAIN, "torch's scaled_dot_product_attention", planned=0),
        _choice("flash_attention_2", "the flash-attn package", needs_cuda("flash_attention_2", (8, 0)), planned=1),
        _choice("flash_attention_3", "the flash-attn-3 package", _between_ampere_and_hopper),
        _choice("flash_attention_4", "the flash-attn-4 package", needs_cuda("flash_attention_4", (9, 0))),
        _choice(TORCH_VARLEN, "torch's variable-length flash attention", _nothing_is_flattened, _old_card),
        _choice(FLEX, "torch's flex_attention, compiled", _flex_unavailable, is_compiled=True),
        _choice(PLAINEST, "plain matrix products", planned=2),
    ),
)
