"""Operators that autocast runs in float32 on CUDA, taught to the CPU's autocast while a trace is for CUDA.

The lists are torch's own (aten/src/ATen/autocast_mode.h, AT_FORALL_FP32 and AT_FORALL_FP32_SET_OPT_DTYPE), as far
as training meets them. The operators that run in 16 bits are the same on both devices where it matters here.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from autofit.worker.tracer.patched import patched

_IN_FLOAT32 = (
    "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "pow.Tensor_Scalar", "pow.Tensor_Tensor",
    "pow.Scalar", "softplus", "layer_norm", "native_layer_norm", "group_norm", "cosine_similarity", "nll_loss",
    "nll_loss2d", "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss", "binary_cross_entropy_with_logits",
    "cdist", "logsumexp", "rms_norm",
)  # fmt: skip
_GIVE_FLOAT32 = ("prod", "softmax.int", "log_softmax.int", "cumprod", "cumsum", "sum", "sum.dim_IntList",
                 "linalg_vector_norm")  # fmt: skip


@contextlib.contextmanager
def rules() -> Iterator[None]:
    """Within it, autocast on the CPU keeps to CUDA's lists."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        # "Overriding a previously registered kernel": that is what is wanted.
        warnings.simplefilter("ignore")
        for name in _IN_FLOAT32:
            library.impl(name, _in_float32(_overload(name)), "AutocastCPU")
        for name in _GIVE_FLOAT32:
            library.impl(name, _giving_float32(_overload(name)), "AutocastCPU")
    # The CPU's autocast runs it whole in float32; CUDA's leaves it to its parts, of which only the second widens.
    library.impl("cross_entropy_loss", torch.library.fallthrough_kernel, "AutocastCPU")
    is_enabled, dtype_of = torch.is_autocast_enabled, torch.get_autocast_dtype
    # Asked without a device, torch answers for CUDA. PEFT's 4-bit layers ask so, and would cast what is not to be cast.
    # Liger's loss asks for CUDA by name.
    of_the_host = {
        "is_autocast_enabled": lambda *device: is_enabled("cpu"),
        "get_autocast_dtype": lambda device: dtype_of("cpu"),
    }
    try:
        with patched(torch, **of_the_host):
            yield
    finally:
        library._destroy()


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _without_autocast() -> Any:
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU))


def _in_float32(operator: Any) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with _without_autocast():
            return operator(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})

    return run


def _giving_float32(operator: Any) -> Callable[..., Any]:
    def run(first: Any, *args: Any, **kwargs: Any) -> Any:
        with _without_autocast():
            if _is_half(first) and kwargs.get("dtype") is None and not _names_a_dtype(args):
                kwargs["dtype"] = torch.float32
            return operator(first, *args, **kwargs)

    return run


def _names_a_dtype(args: tuple[Any, ...]) -> bool:
    return any(isinstance(each, torch.dtype) for each in args)


def _is_half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)


def _widened(value: Any) -> Any:
    return value.float() if _is_half(value) else value
