"""Searches by the command line on a card that is not there: what they print and how they end, not how fast they are."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.null_gpu.conftest import NullGpu

pytestmark = pytest.mark.null_gpu

SHORT = ("--effective-batch", "16", "--seq-len", "256", "--max-trials", "4", "--forbid", "compile=inductor")


def answer(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The document that a search printed."""
    assert ended.returncode == 0, ended.stderr[-4000:]
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


def test_a_search_forks_its_workers_predicts_and_confirms(model: str, null_gpu: NullGpu) -> None:
    ended = null_gpu.autofit(model, *SHORT, "--json")
    document = answer(ended)
    assert "fresh Python" not in ended.stderr and "Not predicted" not in ended.stderr, ended.stderr
    assert document["recommendation"]["confirmed"] and "H100" in document["device"]["name"]
    for trial in document["trials"]:
        assert trial["config"]["micro_batch_size"] * trial["config"]["accumulation_steps"] == 16
        assert trial["prediction"] is not None


def test_a_memory_limit_is_kept_and_what_does_not_fit_is_named(model: str, null_gpu: NullGpu) -> None:
    words = (
        model,
        "--effective-batch",
        "16",
        "--seq-len",
        "1024",
        "--max-trials",
        "4",
        "--memory-limit",
        "5GiB",
        "--budget",
        "60s",
    )
    document = answer(null_gpu.autofit(*words, "--forbid", "compile=inductor", "--json"))
    needs = [trial["measurement"]["needed_bytes"] for trial in document["trials"] if trial["measurement"]]
    assert needs and max(needs) <= document["limits"]["usable_bytes"] < 5 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (("--method", "lora"), {}),
        (("--method", "qlora"), {}),
        (("--fix", "kernels=liger"), {}),
        (("--fix", "optimizer=paged_adamw_8bit"), {}),
        (("--fix", "optimizer=adamw_torch_8bit", "--numerics", "aggressive"), {}),
        (("--fix", "allocator=expandable"), {"CARDS": "2", "CUDA_VISIBLE_DEVICES": "1"}),
    ],
    ids=lambda value: "-".join(value)[-24:] if isinstance(value, tuple) else None,
)
def test_what_cards_can_have_is_searched(
    words: tuple[str, ...], settings: dict[str, str], model: str, null_gpu: NullGpu
) -> None:
    document = answer(null_gpu.autofit(model, *SHORT, *words, "--json", **settings))
    assert document["ranking"]


def test_a_slice_of_a_card_is_searched_though_its_memory_may_not_be_asked_for(model: str, null_gpu: NullGpu) -> None:
    name = "MIG-7c1e2f3a-0000-0000-0000-000000000000"
    document = answer(null_gpu.autofit(model, *SHORT, "--json", MIG="1", CUDA_VISIBLE_DEVICES=name))
    assert document["ranking"] and document["device"]["memory_bytes"] < 2**40
