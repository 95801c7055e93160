"""Tensors without data: shapes, types and lifetimes as on a CPU, and nothing computed or allocated.

A DatalessTensor is a meta tensor that carries the dispatch keys of the CPU, so that autograd, autocast and the
Trainer treat it as one on a CPU; inside an operator, the meta kernel is chosen for it. This is how
``torch._subclasses.FakeTensor`` works too; what a training step does not need of that one is left out here,
which makes a trace two to three times faster. Tensors of a device that torch was not built for cannot be had
this way: autograd ends the process (``std::terminate``) for those.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_CPU, _META, _CUDA = torch.device("cpu"), torch.device("meta"), torch.device("cuda", 0)


class _Kernel:
    """True if a meta kernel is running: only then do tensors say that they are on the meta device."""

    running = False


class DatalessTensor(torch.Tensor):  # type: ignore[misc]
    """A tensor of the CPU whose storage has a size and no memory.

    To code of the packages in ``told_cuda`` it says that it is on a GPU: they take other paths there.
    """

    told_cuda: frozenset[str] = frozenset()

    @staticmethod
    def __new__(cls, meta: torch.Tensor) -> DatalessTensor:
        made: DatalessTensor = torch.Tensor._make_subclass(
            cls, meta, meta.requires_grad, dispatch_device=True, device_for_backend_keys=_CPU
        )
        return made

    @property
    def device(self) -> torch.device:
        if _Kernel.running:
            return _META
        if self.told_cuda and sys._getframe(1).f_globals["__name__"].partition(".")[0] in self.told_cuda:
            return _CUDA
        return _CPU

    def data_ptr(self) -> int:
        """A number that no other storage's tensors have: libraries tell tensors apart by their address."""
        place: int = (self.untyped_storage()._cdata << 48) + self.storage_offset() * self.element_size()
        return place

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return _META if _Kernel.running else _CPU
        raise RuntimeError(f"{func} on a tensor without data outside of the mode that made it")

    __torch_function__ = torch._C._disabled_torch_function_impl


_PLAIN = (DatalessTensor, torch.Tensor, torch.nn.Parameter)


class Listener(Protocol):
    """Hears of every operator, after its meta kernel has run."""

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None: ...


class Dataless(TorchDispatchMode):  # type: ignore[misc]
    """Within it tensors that are made have no data, but for those that are made of real ones alone.

    ``truth`` is what a yes-or-no question to a tensor is answered with: HF asks whether a mask hides nothing
    and whether a row holds one document only. Numbers asked of tensors are 1.
    """

    def __init__(self, listener: Listener, *, truth: bool = True) -> None:
        super().__init__()
        self._listener = listener
        self._truth = truth
        self.decompositions: dict[Any, Callable[..., Any]] = {}
        """Operators that are traced through Python code of theirs instead of as one."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would wrap the method below in one that keeps its compiler out, for every operator."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(kind not in _PLAIN for kind in types):
            return NotImplemented  # one made of others, as those cut into parts are: these are asked of the mode again
        if func is torch.ops.prim.device.default:
            return _CPU
        if DatalessTensor not in types and any(map(_has_tensors, args)):
            # Small things made of Python's numbers (a step count, positions) keep their values: code asks for them.
            if kwargs.get("device") == _CUDA:
                kwargs = {**kwargs, "device": _CPU}
            out = func(*args, **kwargs)
            self._listener.operator(func, args, kwargs, out)
            return out
        if func is aten._local_scalar_dense.default:
            return _answer(args[0].dtype, self._truth)
        if func is aten.equal.default:
            return True  # Liger asks whether the gradient of its loss is 1
        if func in self.decompositions:
            with self:
                return self.decompositions[func](*args, **kwargs)
        if func is aten.add.Tensor and _is_accumulation(args):
            func = aten.add_.Tensor
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": _META}
        args = tuple(map(_as_meta, args))
        special = _SPECIAL.get(func)
        with torch._C._DisableTorchDispatch(), torch._C._PreserveDispatchKeyGuard():
            before = _Kernel.running
            _Kernel.running = True
            torch._C._set_meta_in_tls_dispatch_include(True)
            try:
                out = func(*args, **kwargs) if special is None else special(*args, **kwargs)
            finally:
                _Kernel.running = before
        if isinstance(out, torch.Tensor):
            out = _without_data(out)
        elif isinstance(out, (tuple, list)):
            out = type(out)(_without_data(each) if isinstance(each, torch.Tensor) else each for each in out)
        self._listener.operator(func, args, kwargs, out)
        return out


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if type(tensor) is DatalessTensor else DatalessTensor(tensor)


def _has_tensors(argument: Any) -> bool:
    if isinstance(argument, list):
        return bool(argument) and isinstance(argument[0], torch.Tensor)
    return isinstance(argument, torch.Tensor)


def _as_meta(argument: Any) -> Any:
    """Meta kernels refuse a real tensor beside one without data, but for a single number."""
    if type(argument) is torch.Tensor and argument.dim() and not argument.is_meta:
        return torch.empty_strided(argument.size(), argument.stride(), dtype=argument.dtype, device="meta")
    if type(argument) is list and any(isinstance(each, torch.Tensor) for each in argument):
        return [_as_meta(each) for each in argument]
    return argument


def _answer(dtype: torch.dtype, truth: bool) -> bool | float | int:
    if dtype is torch.bool:
        return truth
    return 1.0 if dtype.is_floating_point else 1


def _is_accumulation(args: tuple[Any, ...]) -> bool:
    """True if autograd is adding up two gradients of one tensor.

    It does that in place where nothing else holds the first one, but never while a dispatch mode is active
    (``can_accumulate_inplace`` in torch/csrc/autograd/input_buffer.cpp); so the mode does it instead. The
    engine itself calls then, not Python code, and the gradient's storage has no second tensor on it.
    """
    first, second = args[0], args[1]
    if not (isinstance(first, DatalessTensor) and isinstance(second, torch.Tensor)):
        return False
    if torch.is_grad_enabled() or first.shape != second.shape or first.dtype != second.dtype:
        return False
    # One frame up is the mode, two frames up whoever called the operator.
    if sys._getframe(2).f_code.co_name != "_engine_run_backward":
        return False
    # The tensor's own reference and that of the Python object made here.
    return bool(torch._C._storage_Use_Count(first.untyped_storage()._cdata) <= _HELD_BY_ONE_TENSOR)


_HELD_BY_ONE_TENSOR = 2


def _elementwise(operator: Any) -> Callable[..., Any]:
    """A shortcut for what most operators are: torch's meta kernels for these are Python and take half of a trace.

    Like TensorIterator it gives the result the order of dimensions of the first tensor, where that is as large as the
    result and not expanded, and the usual order where all tensors have that.
    """

    def run(first: Any, *others: Any, **kwargs: Any) -> Any:
        if isinstance(first, torch.Tensor) and first.dtype.is_floating_point and 0 not in first.stride():
            second = others[0] if others else None
            if second is None or type(second) in (float, int):
                return torch.empty_like(first)
            if isinstance(second, torch.Tensor) and _keeps_type(first, second):
                shape = first.shape if first.shape == second.shape else _broadcast(first.shape, second.shape)
                if shape == first.shape:
                    return torch.empty_like(first)
                if shape is not None and _in_usual_order(first) and _in_usual_order(second):
                    return torch.empty(shape, dtype=first.dtype, device=_META)
        return operator(first, *others, **kwargs)

    return run


def _in_usual_order(tensor: torch.Tensor) -> bool:
    """True where dimensions lie in their order, those of size 1 included: where two are broadcast these decide, too."""
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if stride != expected:
            return False
        expected *= size
    return True


def _keeps_type(first: torch.Tensor, second: torch.Tensor) -> bool:
    """True if the result has the first one's type: a tensor without dimensions decides nothing beside one with some."""
    is_number = second.dim() == 0 < first.dim() and second.dtype.is_floating_point
    return is_number or bool(first.dtype == second.dtype)


def _broadcast(first: torch.Size, second: torch.Size) -> torch.Size | None:
    """The shape of both together; None where they do not go together, which torch then says."""
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    sizes = list(longer)
    for place, size in enumerate(shorter, start=len(longer) - len(shorter)):
        if sizes[place] == 1:
            sizes[place] = size
        elif size not in (1, sizes[place]):
            return None
    return torch.Size(sizes)


def _reduction(operator: Any) -> Callable[..., Any]:
    """The same for sums and means over dimensions."""

    def run(first: torch.Tensor, dims: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        if dims and not kwargs and first.dim() and first.dtype.is_floating_point and first.is_contiguous():
            gone = {dim % first.dim() for dim in dims if -first.dim() <= dim < first.dim()}
            if len(gone) == len(dims):
                kept = [1 if place in gone else size for place, size in enumerate(first.shape)]
                sizes = [size for place, size in enumerate(kept) if keepdim or place not in gone]
                return torch.empty(sizes, dtype=first.dtype, device=_META)
        return operator(first, dims, keepdim, **kwargs)

    return run


def _grouped_mm(a: torch.Tensor, b: torch.Tensor, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """torch's own meta kernel takes 16 bits only."""
    shape: tuple[int, ...]
    if a.dim() == 2 and b.dim() == 2:
        shape = (int(offs.shape[0]), a.shape[0], b.shape[1])
    elif a.dim() == 2:
        shape = (a.shape[0], b.shape[-1])
    else:
        shape = (a.shape[0], a.shape[1], b.shape[-1]) if b.dim() == 3 else (a.shape[1], b.shape[1])
    return torch.empty(shape, dtype=out_dtype or a.dtype, device="meta")


_SPECIAL: dict[Any, Callable[..., Any]] = {
    operator: _elementwise(operator)
    for operator in (
        *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.pow.Tensor_Scalar),
        *(aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar, aten.div.Scalar, aten.neg.default, aten.rsqrt.default),
    )
} | {operator: _reduction(operator) for operator in (aten.sum.dim_IntList, aten.mean.dim)}
if hasattr(aten, "_grouped_mm"):
    _SPECIAL[aten._grouped_mm.default] = _grouped_mm
