"""The device that a trace is for, where it differs from the CPU that traces: kernels that torch would choose there.

For a CPU nothing does: the Trainer, autocast and torch's own choices are the real ones. For CUDA the choices below
are read in torch's sources, and what they take is held against torch's own allocator on the null GPU
(docs/prediction.md); none has been seen on a real one yet.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._python_dispatch
from torch.utils import _foreach_utils
from transformers import modeling_utils

from autofit.knobs.attention import FLEX, VARLEN
from autofit.knobs.recipe import Recipe
from autofit.worker.tracer import cuda_attention, cuda_autocast, cuda_kernels, liger, torchao_update
from autofit.worker.tracer.dataless import Dataless, DatalessTensor
from autofit.worker.tracer.patched import patched
from autofit.worker.tracer.recorder import Recorder

# The package's attribute of this name is hidden behind its class Optimizer.
_OPTIMIZER: Any = importlib.import_module("torch.optim.optimizer")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The device that a trace is for. ``compute_capability`` matters on CUDA only."""

    kind: str = "cpu"
    compute_capability: tuple[int, int] = (8, 0)

    def traceable(self, recipe: Recipe) -> Recipe:
        """The recipe, with the attention that stands for those which a CPU cannot run."""
        attention = recipe.model_kwargs.get("attn_implementation")
        if self.kind == "cpu" or attention not in VARLEN:
            return recipe
        stands_for_it = cuda_attention.FLEX if attention == FLEX else cuda_attention.NAME
        return replace(recipe, model_kwargs={**recipe.model_kwargs, "attn_implementation": stands_for_it})

    @contextlib.contextmanager
    def rules(self, mode: Dataless, recorder: Recorder) -> Iterator[None]:
        """Within it, operators are chosen as this device has them."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_foreach_takes(DatalessTensor))
            stack.enter_context(_real_quantization_maps())
            if "bitsandbytes" in sys.modules:
                from autofit.worker.tracer.quantized import gemm_blocks

                recorder.kernel_temporaries[torch.ops.bitsandbytes.gemm_4bit.default] = gemm_blocks
            if self.kind == "cpu":
                mode.decompositions.update(_updates_of_bitsandbytes_on_a_cpu())
            else:
                stack.enter_context(_foreach_by_default())
                stack.enter_context(_offload_leaves_the_device())
                stack.enter_context(cuda_autocast.rules())
                stack.enter_context(cuda_attention.rules(self.compute_capability, recorder))
                stack.enter_context(cuda_kernels.rules(self.compute_capability, recorder))
                stack.enter_context(liger.rules(self.compute_capability, recorder))
                stack.enter_context(torchao_update.rules(recorder))
            yield


@contextlib.contextmanager
def _foreach_takes(kind: type) -> Iterator[None]:
    """torch's optimizers and clipping take these for plain tensors."""
    lists = (_foreach_utils._foreach_supported_types, _OPTIMIZER._foreach_supported_types)
    for kinds in lists:
        kinds.append(kind)
    try:
        yield
    finally:
        for kinds in lists:
            kinds.remove(kind)


@contextlib.contextmanager
def _foreach_by_default() -> Iterator[None]:
    """On CUDA the optimizers that say neither fused nor foreach are foreach (torch/optim/optimizer.py)."""
    devices = _OPTIMIZER._get_foreach_kernels_supported_devices
    with patched(_OPTIMIZER, _get_foreach_kernels_supported_devices=lambda: [*devices(), "cpu"]):
        yield


@contextlib.contextmanager
def _offload_leaves_the_device() -> Iterator[None]:
    """Checkpointing's offloaded tensors leave the device, and come back as other blocks."""
    hooks = functools.partial(torch.autograd.graph.saved_tensors_hooks, _to_host, _from_host)
    with patched(modeling_utils, save_on_cpu=lambda **settings: hooks()):
        yield


def _to_host(tensor: torch.Tensor) -> Any:
    if not isinstance(tensor, DatalessTensor):
        return tensor
    return tensor.size(), tensor.dtype


def _from_host(kept: Any) -> torch.Tensor:
    if isinstance(kept, torch.Tensor):
        return kept
    size, dtype = kept
    return torch.empty(size, dtype=dtype)


@contextlib.contextmanager
def _real_quantization_maps() -> Iterator[None]:
    """bitsandbytes makes its 256 quantization levels with tensors that it then asks for their numbers."""
    functional: Any = sys.modules.get("bitsandbytes.functional")
    if functional is None:
        yield
        return
    make = functional.create_dynamic_map

    def made_outside(*args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.utils._python_dispatch._disable_current_modes():
            levels: torch.Tensor = make(*args, **kwargs)
            return levels

    with patched(functional, create_dynamic_map=made_outside):
        yield


def _updates_of_bitsandbytes_on_a_cpu() -> dict[Any, Callable[..., Any]]:
    """On a CPU its updates are Python code with temporaries of their own; on CUDA they are kernels that need none."""
    operators = sys.modules.get("bitsandbytes.backends.cpu.ops")
    found = {}
    for name in ("optimizer_update_8bit_blockwise", "optimizer_update_32bit"):
        update = getattr(operators, f"_{name}_cpu", None)
        if update is not None:
            found[getattr(torch.ops.bitsandbytes, name).default] = update
    return found
