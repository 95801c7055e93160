import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofit.errors import UserError
from autofit.job.lengths import SampleLengths
from autofit.job.workload import Workload


def workload(effective_batch: int, processes: int = 1, sequence_length: int = 128) -> Workload:
    return Workload(
        model="m",
        model_digest="d",
        task="causal-lm",
        lengths=SampleLengths.fixed(sequence_length),
        effective_batch=effective_batch,
        processes=processes,
    )


@pytest.mark.parametrize(
    ("effective_batch", "pairs"),
    [
        (1, ((1, 1),)),
        (7, ((1, 7), (7, 1))),
        (30, ((1, 30), (2, 15), (3, 10), (5, 6), (6, 5), (10, 3), (15, 2), (30, 1))),
    ],
)
def test_every_exact_pair_is_there_for_numbers_that_are_no_power_of_two(
    effective_batch: int, pairs: tuple[tuple[int, int], ...]
) -> None:
    assert workload(effective_batch).batch_pairs() == pairs


@given(st.integers(1, 600), st.integers(1, 8))
def test_every_pair_times_the_processes_is_the_effective_batch(per_process: int, processes: int) -> None:
    job = workload(per_process * processes, processes)
    assert all(micro * steps * processes == job.effective_batch for micro, steps in job.batch_pairs())
    assert (1, per_process) in job.batch_pairs() and (per_process, 1) in job.batch_pairs()


def test_a_batch_that_does_not_divide_over_the_processes_is_refused() -> None:
    with pytest.raises(UserError, match="multiple of 4"):
        workload(30, processes=4)


@pytest.mark.parametrize(("effective_batch", "sequence_length"), [(0, 128), (-8, 128), (8, 1), (8, 0)])
def test_numbers_below_the_least_are_refused(effective_batch: int, sequence_length: int) -> None:
    with pytest.raises(UserError, match=r"at least|must be from 1 to"):
        workload(effective_batch, sequence_length=sequence_length)
