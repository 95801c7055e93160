"""The tests that need a card, on cards of several architectures: which kernels torch chooses depends on that."""

from __future__ import annotations

import sys

import pytest

from tests.null_gpu.conftest import NullGpu

pytestmark = pytest.mark.null_gpu

TRAINS = "test_every_value_that_can_be_had_trains"
NEEDS_ARITHMETIC = "test_a_search_ends or test_allocated_bytes"


def passes(null_gpu: NullGpu, *words: str, seconds: float = 580, **settings: str) -> str:
    """The end of pytest's output; every test has to pass or to be skipped."""
    ended = null_gpu.run(
        sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *words, seconds=seconds, **settings
    )
    assert ended.returncode == 0, ended.stdout[-6000:]
    return ended.stdout.splitlines()[-1]


def test_a_trial_is_measured_and_an_emulated_card_runs_out_of_memory(null_gpu: NullGpu) -> None:
    passes(null_gpu, "tests/gpu/test_cuda.py", "-k", "not test_a_search_ends and not available_choice")


@pytest.mark.parametrize("capability", ["7.5", "12.0"])
def test_attention_trains_on_other_architectures(capability: str, null_gpu: NullGpu) -> None:
    chosen = f"{TRAINS} and (sdpa or eager or torch_varlen)"
    passes(null_gpu, "tests/gpu/test_knobs_on_cuda.py", "-k", chosen, CAPABILITY=capability)


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.9", "9.0", "12.0"])
def test_everything_passes_that_needs_no_arithmetic(capability: str, null_gpu: NullGpu) -> None:
    passes(null_gpu, "tests/gpu", "-k", f"not ({NEEDS_ARITHMETIC})", seconds=1800, CAPABILITY=capability)
