"""Operators on tensors without data: shapes, strides and types are those of real tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
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
    """The same operator with data and without it, on tensors of the same layout.

    For some expanded tensors torch's own kernels for tensors without data differ from those with data; either will do.
    """

    def without_data(device: str) -> list[Any]:
        return [
            torch.empty_strided(each.size(), each.stride(), dtype=each.dtype, device=device)
            if isinstance(each, torch.Tensor)
            else each
            for each in args
        ]

    expected = [operator(*args, **kwargs), operator(*without_data("meta"), **kwargs)]
    with Dataless(Deaf()):
        assert layout_of(operator(*without_data("cpu"), **kwargs)) in map(layout_of, expected)


@st.composite
def tensors(draw: st.DrawFn, *, number: int = 1) -> list[torch.Tensor]:
    """Tensors that can be broadcast to one shape, of several orders and types."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    drawn = []
    for _ in range(number):
        left_out = draw(st.integers(0, len(shape)))
        own = [draw(st.sampled_from((1, size))) if draw(st.booleans()) else size for size in shape[left_out:]]
        order = draw(st.permutations(range(len(own))))
        tensor = made(tuple(own), tuple(order), draw(st.sampled_from(DTYPES)))
        if draw(st.booleans()):
            # Some of its dimensions are expanded, and have a stride of 0.
            tensor = tensor.expand(
                [max(size, draw(st.sampled_from((1, all_)))) for size, all_ in zip(own, shape[left_out:], strict=True)]
            )
        drawn.append(tensor)
    return drawn


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(BINARY), tensors(number=2))
# Dimensions of size 1 lie elsewhere than usual, and turn the result.
@example(
    aten.add.Tensor, [torch.ones(2).as_strided((2, 1, 1), (1, 2, 1)), torch.ones(2).as_strided((1, 1, 2), (2, 1, 1))]
)
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


def test_dimensions_that_are_not_there_or_come_twice_are_refused() -> None:
    with Dataless(Deaf()):
        for dims in ([0, 0], [5]):
            with pytest.raises((RuntimeError, IndexError)):
                aten.sum.dim_IntList(torch.empty(2, 3), dims)


def test_a_number_may_come_before_a_tensor() -> None:
    real = torch.add(0.25, torch.ones(3, 2), alpha=0.5)
    with Dataless(Deaf()):
        assert layout_of(torch.add(0.25, torch.empty(3, 2), alpha=0.5)) == layout_of(real)


def test_shapes_that_do_not_go_together_are_refused_as_torch_refuses_them() -> None:
    with Dataless(Deaf()), pytest.raises(RuntimeError, match=r"size|shape"):
        aten.add.Tensor(torch.empty(2, 3), torch.empty(2, 4))


def test_a_loss_over_a_step_count_has_the_type_of_what_has_dimensions() -> None:
    check(aten.div.Tensor, torch.ones(3, dtype=torch.bfloat16), torch.tensor(2.0))
    check(aten.mul.Tensor, torch.tensor(2.0), torch.ones(3, dtype=torch.bfloat16))
    check(aten.add.Tensor, torch.ones(2, 3), torch.ones(3), alpha=0.5)


def test_an_expanded_tensor_takes_the_order_of_the_other() -> None:
    check(aten.mul.Tensor, torch.ones(3, 1).expand(3, 4), torch.ones(4, 3).t())
    check(aten.mul.Tensor, torch.ones(4, 3).t(), torch.ones(3, 1).expand(3, 4))
