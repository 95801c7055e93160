"""What a training process takes of a device beside its tensors: a named term each, with its source."""

from __future__ import annotations

from autofit.device.device import Device
from autofit.units import MIB

CUBLAS_WORKSPACE = 8_519_680
"""Bytes of one cuBLAS workspace on cards before Hopper (pytorch issue 95668), taken from the caching allocator."""
CUBLAS_WORKSPACE_HOPPER = 32 * MIB
"""The same from compute capability 9.0 on (pytorch issue 175344)."""
CUBLAS_THREADS = 2
"""The main thread and autograd's have a handle each: published peaks on A100 and T4 hold exactly two workspaces."""
CONTEXT = 450 * MIB
"""The device's context and loaded kernels: an estimate; 300 MB and more are reported since CUDA 11.7 loads kernels
when they are first used. The first trial measures it."""
CONTEXT_BEFORE_AMPERE = 150 * MIB
"""140.9 MiB measured on a T4 by fitcheck-llm."""


def workspace_bytes(device: Device) -> int:
    """The matrix library's workspaces, inside what the allocator counts."""
    if device.kind == "cpu":
        return 0
    each = CUBLAS_WORKSPACE_HOPPER if (device.compute_capability or (0, 0)) >= (9, 0) else CUBLAS_WORKSPACE
    return CUBLAS_THREADS * each


def context_bytes(device: Device) -> int:
    """The device's context, outside what the allocator counts."""
    if device.kind == "cpu":
        return 0
    return CONTEXT if (device.compute_capability or (8, 0)) >= (8, 0) else CONTEXT_BEFORE_AMPERE
