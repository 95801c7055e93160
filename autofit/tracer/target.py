"""What differs between the CPU that traces and the device that is traced for: kernels that torch would choose there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._python_dispatch
from torch.utils import _foreach_utils

from autofit.recipe import Recipe
from autofit.tracer.dataless import DatalessTensor
from autofit.tracer.recorder import Recorder


@dataclass(frozen=True, kw_only=True)
class Target:
    """The device that a trace is for."""

    kind: str = "cpu"
    compute_capability: tuple[int, int] | None = None

    def traceable(self, recipe: Recipe) -> Recipe:
        """The recipe in words that a CPU takes, where they mean the same blocks of memory.

        fp16 autocast makes the same copies as bf16's; tf32 rounds inside the kernels.
        """
        arguments = dict(recipe.training_arguments)
        arguments.pop("tf32", None)
        arguments.pop("torch_compile", None)
        if arguments.pop("fp16", False):
            arguments["bf16"] = True
        return replace(recipe, training_arguments=arguments)

    @contextlib.contextmanager
    def rules(self, recorder: Recorder) -> Iterator[None]:
        """Within it, operators are chosen as this device has them."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_also_foreach(DatalessTensor))
            stack.enter_context(_with_real_quantization_maps())
            yield


@contextlib.contextmanager
def _also_foreach(kind: type) -> Iterator[None]:
    """torch's optimizers and clipping take these for plain tensors."""
    _foreach_utils._foreach_supported_types.append(kind)
    try:
        yield
    finally:
        _foreach_utils._foreach_supported_types.remove(kind)


@contextlib.contextmanager
def _with_real_quantization_maps() -> Iterator[None]:
    """bitsandbytes makes its 256 quantization levels with tensors that it then asks for their numbers."""
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is None:
        yield
        return
    make = functional.create_dynamic_map

    def made_outside(*args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.utils._python_dispatch._disable_current_modes():
            levels: torch.Tensor = make(*args, **kwargs)
            return levels

    functional.create_dynamic_map = made_outside
    try:
        yield
    finally:
        functional.create_dynamic_map = make
