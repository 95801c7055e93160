"""The catalogue of GPUs: names, sizes, rates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autofit.device.gpus import all_gpus, find_gpu, published_rates
from autofit.errors import UserError
from autofit.units import GIB


@pytest.mark.parametrize(
    ("name", "memory_gib", "capability"),
    [
        ("rtx-4090", 23.5, (8, 9)),
        ("NVIDIA GeForce RTX 4090", 23.5, (8, 9)),
        ("4090", 23.5, (8, 9)),
        ("H100", 79, (9, 0)),
        ("Tesla T4", 14.7, (7, 5)),
        ("a100", 39.6, (8, 0)),
        ("NVIDIA A100-SXM4-80GB", 78, (8, 0)),
        ("mi300x", 192, (9, 0)),
    ],
)
def test_a_card_is_found_by_what_people_and_drivers_call_it(
    name: str, memory_gib: float, capability: tuple[int, int]
) -> None:
    gpu = find_gpu(name)
    assert gpu.memory_bytes / GIB == pytest.approx(memory_gib, rel=0.01)
    assert gpu.compute_capability == capability


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("h100", 450),
        ("a100-80gb", 300),
        ("A100 80GB PCIe", 31.5),
        ("rtx-4090", 31.5),
        ("rtx-3090", 31.5),
        ("t4", 15.8),
        ("a16", 7.9),
        ("mi210", 31.5),
    ],
)
def test_cards_of_a_host_are_joined_by_nvlink_where_it_joins_them_all_and_else_by_pci_express(
    name: str, gigabytes: float
) -> None:
    link = find_gpu(name).rates.link_bytes_per_second
    assert link is not None and link / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_an_unknown_card_is_refused_with_near_names_and_the_way_out() -> None:
    with pytest.raises(UserError, match=r"Did you mean .*rtx-409.* --memory 24GiB"):
        find_gpu("rtx-4091")


def test_every_card_has_what_a_plan_needs_and_its_key_finds_it() -> None:
    gpus = all_gpus()
    assert len(gpus) == 59
    for gpu in gpus:
        assert find_gpu(gpu.key) == gpu, "another card has the same key"
        assert 7 * GIB < gpu.memory_bytes < 300 * GIB
        assert gpu.rates.flops_16 >= 0.5 * gpu.rates.flops_32 > 1e12
        assert gpu.rates.bytes_per_second > 1e11
        assert gpu.device().kind == "cuda"


def test_a_present_card_has_published_rates_under_its_drivers_name_and_an_unknown_one_none() -> None:
    card = find_gpu("h100").device()
    rates = published_rates(card)
    assert rates is not None and rates.flops_16 == pytest.approx(989e12, rel=0.01)
    assert published_rates(replace(card, name="a card of tomorrow")) is None
