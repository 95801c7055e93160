"""Small tensors get right values on the null GPU, so that code on the host that reads them goes on as on a card.

Kernels of the null GPU compute nothing, but its memory is memory of this process. For each operator named below and
tensors that are small, torch's CUDA kernel is called first, for its allocations, and torch's CPU kernel then computes
the same operator on the same bytes. Large tensors hold nothing and stay so.

Python imports this module by itself where its folder is on PYTHONPATH; it acts when torch is imported, and only where
the null GPU is loaded.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from autofit_patches import PATCHES

MOST_INTEGERS, MOST_FLOATS = 2**18, 2**12
"""Elements of the largest tensor that is computed: masks, lengths and indices; losses and norms."""

# Operators that give new tensors, computed from their inputs.
GIVING = """
abs add.Tensor all all.dim all.dims amax amin any any.dim any.dims argmax argmin bitwise_and.Tensor
bitwise_left_shift.Tensor bitwise_not bitwise_or.Tensor bitwise_xor.Tensor cat clamp clamp.Tensor clone cumsum
div.Tensor eq.Scalar eq.Tensor exp flip floor_divide gather ge.Scalar ge.Tensor gt.Scalar gt.Tensor histc
index.Tensor index_select isin.Tensor_Tensor isinf isnan le.Scalar le.Tensor linalg_vector_norm log logical_and
logical_not logical_or logical_xor lt.Scalar lt.Tensor max max.dim maximum mean.dim min min.dim minimum mul.Tensor
ne.Scalar ne.Tensor neg pow.Tensor_Scalar reciprocal remainder.Scalar remainder.Tensor roll rsqrt
searchsorted.Tensor sign sort.stable sqrt sub.Tensor sum.dim_IntList tril triu where.self
"""
# Operators that write into a tensor they are given.
WRITING = """
_index_put_impl_ add_.Tensor all.all_out any.all_out arange.start_out bitwise_and_.Tensor bitwise_or_.Tensor cat.out
clamp_ copy_ cumsum.out div_.Tensor eq_.Scalar eye.m_out fill_.Scalar fill_.Tensor index_fill_.int_Scalar index_put_
linspace.out logical_and_ logical_not_ logical_or_ lt_.Scalar masked_fill_.Scalar masked_fill_.Tensor mul_.Tensor
scatter_.src scatter_.value scatter_add_ sub_.Tensor sum.IntList_out
"""
# Operators whose result has as many elements as their values say: torch's CUDA kernel would wait for a count forever.
SIZING = "_unique2 masked_select nonzero unique_consecutive unique_dim"

LOGS = os.environ.get("NULL_GPU_LOG") == "1"
FINITE = os.environ.get("NULL_GPU_FINITE", "1") != "0"
_kept: list[Any] = []  # a torch.library ends with its object


def install(torch: ModuleType) -> None:
    """Put the operators in place."""
    library = torch.library.Library("aten", "IMPL")
    _kept.append(library)
    absent = []
    for names, kind in ((GIVING, _giving), (WRITING, _writing), (SIZING, _sizing)):
        for name in names.split():
            try:
                kernel = torch.library.get_kernel(f"aten::{name}", "CUDA")
            except RuntimeError:
                absent.append(name)
                continue
            library.impl(name, _Operator(torch, name, kernel, kind), "CUDA", with_keyset=True, allow_override=True)
    library.impl("equal", _equal(torch), "CUDA", with_keyset=True, allow_override=True)
    if absent:
        _say(f"no CUDA kernel for {', '.join(absent)}")
    # Autograd's thread lets go of these Python kernels after a backward pass; where the interpreter has ended by then,
    # the thread is ended inside C++, which aborts the process.
    atexit.register(time.sleep, 0.1)


class _Operator:
    """One operator on CUDA tensors: by torch's kernel, and computed where all its tensors are small."""

    def __init__(self, torch: ModuleType, name: str, kernel: Any, kind: Callable[..., Any]) -> None:
        packet, _, overload = name.partition(".")
        self.torch = torch
        self.name = name
        self.kernel = kernel
        self.on_host = getattr(getattr(torch.ops.aten, packet), overload or "default")
        self._kind = kind
        self._wants_tensor = [str(argument.type) == "Tensor" for argument in self.on_host._schema.arguments]

    def __call__(self, keyset: Any, *arguments: Any, **named: Any) -> Any:
        tensors = list(_tensors((arguments, tuple(named.values())), self.torch))
        if tensors:
            # A number that stands for a tensor arrives as a number, which the kernel does not take.
            arguments = tuple(
                _as_tensor(value, tensors[0].dtype, self.torch)
                if wants and isinstance(value, (bool, int, float))
                else value
                for value, wants in zip(arguments, self._wants_tensor, strict=False)
            )
        if not _are_small(tensors, self.torch):
            return self.kernel.call_boxed(keyset, *arguments, **named)
        return self._kind(self, keyset, arguments, named)

    def compute(self, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        """By the CPU's kernel, on the same bytes."""
        given = _to_host(tuple(arguments), self.torch)
        return self.on_host(*given, **{key: _to_host(value, self.torch) for key, value in named.items()})


def _giving(operator: _Operator, keyset: Any, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
    made = operator.kernel.call_boxed(keyset, *arguments, **named)
    if _are_small(list(_tensors(made, operator.torch)), operator.torch):
        try:
            _store(made, operator.compute(arguments, named), operator.torch)
        except RuntimeError as error:
            _say(f"{operator.name} is not computed: {error}")
    return made


def _writing(operator: _Operator, keyset: Any, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
    made = operator.kernel.call_boxed(keyset, *arguments, **named)
    operator.compute(arguments, named)
    target = arguments[0]
    if FINITE and operator.name == "copy_" and not target.is_cuda and target.is_floating_point():
        target.nan_to_num_(1.0, 1.0, 1.0)
    return made


def _sizing(operator: _Operator, keyset: Any, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
    computed = operator.compute(arguments, named)
    device = next(_tensors(tuple(arguments), operator.torch)).device
    if isinstance(computed, operator.torch.Tensor):
        made = operator.torch.empty_like(computed, device=device)
    else:
        made = tuple(operator.torch.empty_like(each, device=device) for each in computed)
    _store(made, computed, operator.torch)
    return made


def _equal(torch: ModuleType) -> Callable[..., bool]:
    def equal(keyset: Any, first: Any, second: Any) -> bool:
        """Large tensors, which hold nothing, count as equal: tied weights are compared when they are loaded."""
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        return not _are_small([first, second], torch) or torch.equal(_on_host(first, torch), _on_host(second, torch))

    return equal


def _on_host(tensor: Any, torch: ModuleType) -> Any:
    """A CPU tensor over the bytes of a CUDA one."""
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
    elements = torch.frombuffer(memory, dtype=tensor.dtype, count=storage.nbytes() // tensor.element_size())
    return elements.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _to_host(value: Any, torch: ModuleType) -> Any:
    if isinstance(value, torch.Tensor):
        return _on_host(value, torch) if value.is_cuda else value
    if isinstance(value, (list, tuple)):
        return type(value)(_to_host(each, torch) for each in value)
    return value


def _tensors(value: Any, torch: ModuleType) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each, torch)


def _are_small(tensors: Sequence[Any], torch: ModuleType) -> bool:
    if not tensors:
        return False
    for tensor in tensors:
        is_plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type in ("cuda", "cpu")
        if not is_plain or tensor.is_conj() or tensor.is_neg():
            return False
        counts_as_float = tensor.is_floating_point() or tensor.is_complex()
        if tensor.numel() > (MOST_FLOATS if counts_as_float else MOST_INTEGERS):
            return False
    # An integer tensor beside floats goes by the floats: scattering a long one into a small one would read nothing.
    floats = any(each.is_floating_point() or each.is_complex() for each in tensors)
    return not floats or all(each.numel() <= MOST_FLOATS for each in tensors)


def _as_tensor(number: Any, dtype: Any, torch: ModuleType) -> Any:
    """A number as the tensor of no dimension that takes part in type promotion as it would; others as they are."""
    if not isinstance(number, (bool, int, float)):
        return number
    if isinstance(number, float) and not (dtype.is_floating_point or dtype.is_complex):
        return torch.tensor(number, dtype=torch.get_default_dtype())
    if isinstance(number, int) and not isinstance(number, bool) and dtype is torch.bool:
        return torch.tensor(number, dtype=torch.int64)
    return torch.tensor(number, dtype=dtype)


def _store(targets: Any, values: Any, torch: ModuleType) -> None:
    for target, value in zip(_tensors(targets, torch), _tensors(values, torch), strict=True):
        if target.numel():
            _on_host(target, torch).copy_(value)


def _say(words: str) -> None:
    if LOGS:
        print(f"null GPU [{os.getpid()}]: {words}", file=sys.stderr)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module as soon as that was imported."""

    def __init__(self, functions: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self._functions = functions

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self._functions or name in sys.modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute, call = spec.loader.exec_module, self._functions[name]

        def execute_and_call(module: ModuleType) -> None:
            execute(module)
            call(module)

        spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec


if "libnullgpu" in os.environ.get("LD_PRELOAD", ""):
    sys.meta_path.insert(0, _AfterImport({"torch": install, **PATCHES}))
