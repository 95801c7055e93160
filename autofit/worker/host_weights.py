"""Weights on the host that take next to no memory there: a model that no single device holds begins on the host."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
from typing import Any

import torch

DRAWN = 2**24
"""Numbers that are drawn; weights with more repeat them."""


def made_up_weights(model: Any, spread: float) -> dict[str, torch.Tensor]:
    """Weights for a model on the meta device, by name: matrices from one block of normal numbers with a standard
    deviation of ``spread``, vectors as norms and biases begin, ones and zeros.

    Values matter to no kernel as long as they are spread like a model's own, and drawing billions of them on the host
    would take minutes.
    """
    drawn = functools.cache(lambda dtype: (torch.randn(DRAWN) * spread).to(dtype))
    return {
        name: repeated(drawn(weight.dtype), weight.numel()).view(weight.shape)
        if weight.ndim >= 2
        else torch.full(weight.shape, float(name.endswith("weight")), dtype=weight.dtype)
        for name, weight in model.state_dict().items()
    }


def repeated(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """``count`` numbers, the given ones again and again. Where the system can, they are there once however many are
    asked for, as long as nobody writes to them; the addresses are given back when the process ends.

    Raises OSError where the system has no addresses left.
    """
    size = numbers.nbytes
    if count <= len(numbers) or size % mmap.PAGESIZE or not hasattr(os, "memfd_create"):
        return numbers.repeat(-(-count // len(numbers)))[:count].clone()
    file = os.memfd_create("weights")
    try:
        os.truncate(file, size)
        with mmap.mmap(file, size) as shared:
            ctypes.memmove((ctypes.c_char * size).from_buffer(shared), numbers.data_ptr(), size)
        whole = -(-count // len(numbers)) * size
        start = _map(None, whole, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        for offset in range(0, whole, size):
            _map(start + offset, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED, file)
    finally:
        os.close(file)
    memory = (ctypes.c_char * whole).from_address(start)
    return torch.frombuffer(memory, dtype=numbers.dtype, count=count)


_MAP_FIXED = 0x10
"""Of Linux, the one system that has memfd_create; Python does not name it."""


@functools.cache
def _system_map() -> Any:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return function


def _map(at: int | None, size: int, protection: int, flags: int, file: int) -> int:
    address = _system_map()(at, size, protection, flags, file, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), f"{size} bytes of addresses could not be had")
    return int(address)
