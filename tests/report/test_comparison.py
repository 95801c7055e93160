"""Two studies beside each other."""

from __future__ import annotations

import dataclasses

import msgspec
from rich.console import Console

from autofit.job.lengths import SampleLengths
from autofit.job.method import Adapter
from autofit.report.comparison import comparison_report, speeds_compared
from autofit.study.outcome import Outcome
from tests.doubles import make_trial
from tests.export.test_training_arguments import make_result


def shown(*results: object) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(comparison_report(*results))  # type: ignore[arg-type]
    return captured.get()


def test_only_what_differs_is_shown_and_speeds_are_not_called_side_by_side() -> None:
    first = dataclasses.replace(make_result(make_trial(seconds=2.0)), study="before")
    second = dataclasses.replace(make_result(make_trial(seconds=1.0, attention="eager")), study="after")
    text = shown(first, second)
    assert "attention" in text and "sdpa" in text and "eager" in text and "time a step" in text
    assert "precision" not in text and "model" not in text
    words = " ".join(text.split())
    assert "The best of 'after' trains 2.00 times as many samples a second as the best of 'before'" in words
    assert "not side by side" in words
    assert max(map(len, text.splitlines())) <= 80


def test_a_study_without_a_measurement_is_named() -> None:
    measured = make_result(make_trial())
    failed = make_result(make_trial(seconds=None, outcome=Outcome.OOM, reason="no memory"))
    assert "no measured configuration" in speeds_compared(measured, dataclasses.replace(failed, study="empty"))
    assert "'empty'" in speeds_compared(measured, dataclasses.replace(failed, study="empty"))


def test_the_same_study_differs_in_nothing() -> None:
    result = make_result(make_trial())
    assert "The same job, settings and figures." in shown(result, result)


def test_adapters_of_different_ranks_are_different_jobs() -> None:
    first, second = make_result(make_trial(), method="lora"), make_result(make_trial(), method="lora")
    workload = dataclasses.replace(second.record.workload, adapter=Adapter(rank=256))
    second = dataclasses.replace(second, record=msgspec.structs.replace(second.record, workload=workload))
    assert "rank 256" in shown(first, second) and "different jobs" in shown(first, second)


def test_the_speeds_of_different_jobs_are_not_compared() -> None:
    long = make_result(make_trial(), lengths=SampleLengths.fixed(512))
    assert "different jobs" in speeds_compared(make_result(make_trial()), long)
