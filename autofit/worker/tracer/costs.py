"""Costs of an operator: floating-point operations, and the bits it multiplies in."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def flops_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """By torch's own table of formulas (torch.utils.flop_counter); 0 for what is not in it."""
    packet = func._overloadpacket
    if func._schema.name == _IN_4_BITS:
        return int(2 * args[0].numel() * args[2][0])
    if packet in _GROUPED:
        a, b = args[0], args[1]
        return int(2 * a.numel() * b.shape[-1])
    formula = flop_registry.get(packet)
    if formula is None:
        return 0
    return int(formula(*args, **kwargs, out_val=out))


def is_attention(func: Any) -> bool:
    """Fused attention, whose work grows with the square of the length."""
    return "attention" in func._schema.name


def multiplied_bits(func: Any, inputs: list[torch.Tensor]) -> int:
    """16 or 32 for an operator that multiplies matrices, by its first floating-point input; else 0."""
    packet = func._overloadpacket
    if packet not in flop_registry and packet not in _GROUPED and func._schema.name != _IN_4_BITS:
        return 0
    sizes = [tensor.element_size() * 8 for tensor in inputs if tensor.is_floating_point()]
    return sizes[0] if sizes else 0


_IN_4_BITS = "bitsandbytes::gemm_4bit"
"""Inputs, packed weight and the weight's shape are its first arguments."""
_GROUPED = {aten._grouped_mm} if hasattr(aten, "_grouped_mm") else set()
