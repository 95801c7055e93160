"""Versions and environment variables that a measurement depends on; nothing is imported."""

from __future__ import annotations

import importlib.metadata
import os
import re

_SETTINGS = re.compile(
    r"(OMP|MKL|KMP|GOMP|OPENBLAS|ONEDNN|DNNL|ATEN|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|CUDA|CUBLAS|CUDNN|NVIDIA|NCCL|ROCR?"
    r"|HIP|MIOPEN|BNB|LIGER|MALLOC|TCMALLOC|JEMALLOC|LRU_CACHE)_\w+|LD_PRELOAD|LD_LIBRARY_PATH|GLIBC_TUNABLES"
)
# They say where something is, or which device is visible; they do not change how fast it is.
_NO_SETTINGS = re.compile(
    r"\w+_VISIBLE_DEVICES|NVIDIA_(DRIVER_CAPABILITIES|REQUIRE_\w+)|CUDA_(DEVICE_ORDER|HOME|PATH|VERSION)|TORCH_HOME|\w*_(CACHE_)?(DIR|HOME|VERSION)"
)

# A change in any of these makes another study: it can change what fits and how fast it is.
PACKAGES = (
    "torch", "transformers", "accelerate", "bitsandbytes", "deepspeed", "flash-attn", "flash-attn-3", "flash-attn-4",
    "liger-kernel", "peft", "torchao", "triton",
)  # fmt: skip


def set_variables() -> dict[str, str]:
    """Environment variables that are set and change what is measured: threads, kernels, allocators."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if _SETTINGS.fullmatch(name) and not _NO_SETTINGS.fullmatch(name)
    }


def installed_versions() -> dict[str, str]:
    """Distribution name -> version, for those that are installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
