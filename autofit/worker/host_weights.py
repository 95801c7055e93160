"""Weights on the host that take next to no memory there: a model that no single device holds begins on the host."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import weakref
from typing import Any

import torch

DRAWN = 2**24
"""Numbers that are drawn; weights with more repeat them."""
LEAST_MAPPED = 2**20
"""Bytes of the smallest weight that is mapped and not copied: the system gives out a limited number of mappings."""


def made_up_weights(model: Any, spread: float) -> dict[str, torch.Tensor]:
    """Weights for a model on the meta device, by name: matrices from one block of normal numbers with a standard
    deviation of ``spread``, vectors as norms and biases begin, ones and zeros.

    Values matter to no kernel as long as they are spread like a model's own, and drawing billions of them on the host
    would take minutes.
    """
    drawn: dict[torch.dtype, RepeatedNumbers] = {}
    weights = {}
    with contextlib.ExitStack() as stack:
        for name, weight in model.state_dict().items():
            if weight.ndim < 2:
                value = float(name.endswith("weight"))
                weights[name] = torch.full(weight.shape, value, dtype=weight.dtype)
                continue
            if weight.dtype not in drawn:
                numbers = (torch.randn(DRAWN) * spread).to(weight.dtype)
                drawn[weight.dtype] = stack.enter_context(RepeatedNumbers(numbers))
            weights[name] = drawn[weight.dtype].take(weight.numel()).view(weight.shape)
    return weights


class RepeatedNumbers:
    """Numbers that are given out again and again. Where the system can, they are in memory once, however many are
    taken, as long as nobody writes to them."""

    def __init__(self, numbers: torch.Tensor) -> None:
        """Raises OSError where the system has no memory left for them."""
        self._numbers = numbers
        self._file = -1
        if numbers.nbytes % mmap.PAGESIZE == 0 and hasattr(os, "memfd_create"):
            self._file = os.memfd_create("weights")
            os.truncate(self._file, numbers.nbytes)
            with mmap.mmap(self._file, numbers.nbytes) as shared:
                memory = (ctypes.c_char * numbers.nbytes).from_buffer(shared)
                ctypes.memmove(memory, numbers.data_ptr(), numbers.nbytes)
                del memory

    def __enter__(self) -> RepeatedNumbers:
        return self

    def __exit__(self, *exception: object) -> None:
        """No more can be taken; tensors that were stay."""
        if self._file >= 0:
            os.close(self._file)

    def take(self, count: int) -> torch.Tensor:
        """``count`` numbers in a row. Raises OSError where the system has no addresses left."""
        size = count * self._numbers.itemsize
        if count <= len(self._numbers) and size < LEAST_MAPPED:
            return self._numbers[:count].clone()
        if self._file < 0:
            return self._numbers.repeat(-(-count // len(self._numbers)))[:count].clone()
        whole = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        start = _map(None, whole, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        memory = (ctypes.c_char * whole).from_address(start)
        weakref.finalize(memory, _system().munmap, start, whole).atexit = False
        for offset in range(0, whole, self._numbers.nbytes):
            part = min(self._numbers.nbytes, whole - offset)
            _map(start + offset, part, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED, self._file)
        return torch.frombuffer(memory, dtype=self._numbers.dtype, count=count)


_MAP_FIXED = 0x10
"""Of Linux, the one system that has memfd_create; Python does not name it."""


@functools.cache
def _system() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library


def _map(at: int | None, size: int, protection: int, flags: int, file: int) -> int:
    address = _system().mmap(at, size, protection, flags, file, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), f"{size} bytes of addresses could not be had")
    return int(address)
