"""Liger's Triton kernels in a trace: its own Python code runs and takes what it takes, and the kernels do nothing.

That code asks tensors whether they are on a GPU and torch what the GPU has, and makes tensors there; it is answered for
the card that is traced for.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from transformers.utils import import_utils

from autofit.knobs.recipe import Recipe
from autofit.worker.tracer.cuda_kernels import processors_of
from autofit.worker.tracer.dataless import DatalessTensor
from autofit.worker.tracer.patched import patched
from autofit.worker.tracer.recorder import Recorder


@contextlib.contextmanager
def rules(capability: tuple[int, int], recorder: Recorder) -> Iterator[None]:
    """Within it a Triton kernel that is launched is heard of as one operator over the tensors it is given."""
    if not import_utils.is_triton_available():
        yield
        return
    from triton.runtime.jit import KernelInterface

    tensor = torch.tensor

    def heard_of(kernel: Any, grid: Any) -> Callable[..., None]:
        return functools.partial(recorder.kernel, getattr(kernel, "__name__", type(kernel).__name__))

    properties = SimpleNamespace(multi_processor_count=processors_of(capability))
    # Tensors that are made there are dataless, too: there is nothing to begin.
    of_cuda = {
        "_lazy_init": lambda: None,
        "get_device_capability": lambda device=None: capability,
        "get_device_properties": lambda device=None: properties,
        "device": lambda index: contextlib.nullcontext(),
    }
    with (
        patched(KernelInterface, __getitem__=heard_of),
        patched(DatalessTensor, told_cuda=frozenset({"liger_kernel"})),
        # Made of Python's numbers, it is a real one.
        patched(torch, tensor=lambda data, *, device=None, **named: tensor(data, **named)),
        patched(torch.cuda, **of_cuda),
    ):
        yield


@contextlib.contextmanager
def model_code_left_as_it_is(model: Any, recipe: Recipe) -> Iterator[None]:
    """After it the model's module and classes are as they were: Liger puts its own functions there for the process."""
    if not recipe.training_arguments.get("use_liger_kernel"):
        yield
        return
    classes = {type(part): type(part).forward for part in model.modules()}
    modules = [sys.modules[kind.__module__] for kind in classes]
    before = {module: dict(vars(module)) for module in (*modules, torch.nn.functional)}
    try:
        yield
    finally:
        for module, names in before.items():
            vars(module).update(names)
        for kind, forward in classes.items():
            if kind.forward is not forward:
                kind.forward = forward
