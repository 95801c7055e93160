"""Weights on the host that repeat one block, and models that begin with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autofit.worker.host_weights import DRAWN, RepeatedNumbers, made_up_weights


def own_bytes(kind: str = "RssAnon") -> int:
    """Memory of this process that nothing else shares, or another line of its status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


@given(st.integers(0, 3_000_000), DTYPES, st.sampled_from([1000, 4096, 2**20]))
def test_numbers_are_repeated_to_any_count(count: int, dtype: torch.dtype, length: int) -> None:
    numbers = torch.arange(length).to(dtype)
    with RepeatedNumbers(numbers) as source:
        found, _ = source.take(count), source.take(3 * length)
    assert found.dtype == dtype and found.shape == (count,)
    assert torch.equal(found, numbers.repeat(count // length + 1)[:count])


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux gives a block several addresses")
def test_many_numbers_take_the_memory_of_the_few_that_are_repeated() -> None:
    numbers = torch.randn(DRAWN // 16)
    before = own_bytes()
    with RepeatedNumbers(numbers) as source:
        many = source.take(2**31)
    assert float(many[:: 2**20].abs().sum()) > 0
    assert own_bytes() - before < 16 * 2**20 < many.nbytes


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux gives a block several addresses")
def test_a_model_of_many_matrices_takes_next_to_no_memory_and_gives_its_addresses_back() -> None:
    with torch.device("meta"):
        model = torch.nn.ModuleList(torch.nn.Linear(4096, 4096, bias=False) for _ in range(32))
    made_up_weights(torch.nn.Linear(2048, 2048, device="meta"), 0.02)
    before, addresses = own_bytes(), own_bytes("VmData")
    weights = made_up_weights(model, 0.02)
    assert own_bytes() - before < 2**28 < sum(weight.nbytes for weight in weights.values()) == 2**31
    weights.clear()
    assert own_bytes("VmData") - addresses < 2**28


def test_what_is_written_into_one_place_is_in_no_other() -> None:
    numbers = torch.randn(2**20)
    with RepeatedNumbers(numbers) as source:
        found, other = source.take(3 * 2**20), source.take(2 * 2**20)
    found[2**20 + 7] = 5.0
    assert found[7] == found[2 * 2**20 + 7] == numbers[7] == other[2**20 + 7]


def test_matrices_are_spread_and_vectors_are_as_norms_and_biases_begin() -> None:
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.LayerNorm(200)).to(torch.bfloat16)
    weights = made_up_weights(model, 0.02)
    assert {name: weight.shape for name, weight in weights.items()} == {
        name: weight.shape for name, weight in model.state_dict().items()
    }
    assert all(weight.dtype == torch.bfloat16 for weight in weights.values())
    assert float(weights["0.weight"].float().std()) == pytest.approx(0.02, rel=0.05)
    assert weights["0.bias"].unique().tolist() == [0.0] and weights["1.weight"].unique().tolist() == [1.0]
