"""Operators on tensors without data: shapes, strides and types are those of real tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autofit.worker.tracer.dataless import Dataless

aten = torch.ops.aten
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64)
BINARY = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
OF_NUMBERS = (aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar, aten.div.Scalar, aten.pow.Tensor_Scalar)


class Deaf:
    """Hears of operators and keeps nothing."""

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        pass


def layout_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Size, type and the strides that decide where a value lies."""
    strides = [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
    return tuple(tensor.shape), tensor.dtype, strides


def made(shape: tuple[int, ...], order: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor whose dimensions lie in memory in another order, as after a transpose."""
    turned = torch.ones([shape[place] for place in order], dtype=dtype)
    return turned.permute([order.index(place) for place in range(len(order))])


def check(operator: Any, *args: Any, **kwargs: Any) -> None:
    """The same operator with data and without it, on tensors of the same layout."""
    expected = operator(*args, **kwargs)
    with Dataless(Deaf()):
        bare = [
            torch.empty_strided(each.size(), each.stride(), dtype=each.dtype)
            if isinstance(each, torch.Tensor)
            else each
            for each in args
        ]
        assert layout_of(operator(*bare, **kwargs)) == layout_of(expected)


@st.composite
def tensors(draw: st.DrawFn, *, number: int = 1) -> list[torch.Tensor]:
    """Tensors that can be broadcast to one shape, of several orders and types."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    drawn = []
    for _ in range(number):
        left_out = draw(st.integers(0, len(shape)))
        own = [draw(st.sampled_from((1, size))) if draw(st.booleans()) else size for size in shape[left_out:]]
        order = draw(st.permutations(range(len(own))))
        drawn.append(made(tuple(own), tuple(order), draw(st.sampled_from(DTYPES))))
    return drawn


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(BINARY), tensors(number=2))
def test_two_tensors_give_what_they_give_with_data(operator: Any, both: list[torch.Tensor]) -> None:
    check(operator, *both)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(OF_NUMBERS), tensors(), st.sampled_from((2, 0.5)))
def test_a_tensor_and_a_number_give_what_they_give_with_data(
    operator: Any, one: list[torch.Tensor], number: float
) -> None:
    check(operator, *one, number)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from((aten.neg.default, aten.rsqrt.default)), tensors())
def test_one_tensor_gives_what_it_gives_with_data(operator: Any, one: list[torch.Tensor]) -> None:
    check(operator, *one)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from((aten.sum.dim_IntList, aten.mean.dim)), tensors(), st.data())
def test_sums_over_dimensions_give_what_they_give_with_data(
    operator: Any, one: list[torch.Tensor], data: st.DataObject
) -> None:
    (tensor,) = one
    if operator is aten.mean.dim and not tensor.dtype.is_floating_point:
        return
    dims = data.draw(st.lists(st.integers(-tensor.dim(), tensor.dim() - 1), max_size=2)) if tensor.dim() else []
    dims = list({dim % tensor.dim(): dim for dim in dims}.values())
    check(operator, tensor, dims, data.draw(st.booleans()))


def test_shapes_that_do_not_go_together_are_refused_as_torch_refuses_them() -> None:
    with Dataless(Deaf()), pytest.raises(RuntimeError, match=r"size|shape"):
        aten.add.Tensor(torch.empty(2, 3), torch.empty(2, 4))


def test_a_loss_over_a_step_count_has_the_type_of_what_has_dimensions() -> None:
    check(aten.div.Tensor, torch.ones(3, dtype=torch.bfloat16), torch.tensor(2.0))
    check(aten.mul.Tensor, torch.tensor(2.0), torch.ones(3, dtype=torch.bfloat16))
    check(aten.add.Tensor, torch.ones(2, 3), torch.ones(3), alpha=0.5)
