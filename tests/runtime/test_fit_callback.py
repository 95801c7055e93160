"""Delivered speed of a run, beside the speed measured before it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl

from autofit.runtime import fit_callback
from autofit.runtime.fit_callback import FitCallback


def run(callback: FitCallback, monkeypatch: pytest.MonkeyPatch, moments: list[float], **busy_at: Any) -> None:
    """Optimizer steps that end at given moments; at one of them the run also logs."""
    for number, moment in enumerate(moments):
        monkeypatch.setattr(fit_callback, "time", SimpleNamespace(perf_counter=lambda now=moment: now))
        control = TrainerControl(should_log=number == busy_at.get("log"))
        callback.on_step_end(None, None, control)


def test_the_median_of_steps_after_the_first_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    callback = FitCallback()
    run(callback, monkeypatch, [0, 10, 20, 30, 31, 32, 33])
    assert callback.step_seconds == 1


def test_what_comes_before_the_next_step_is_no_part_of_it_where_the_run_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    callback = FitCallback()
    run(callback, monkeypatch, [0, 1, 2, 3, 4, 5, 95, 96], log=5)
    assert callback.step_seconds == 1 and max(callback._steps) == 1


@pytest.mark.parametrize(("promised", "says_why"), [(1.0, False), (0.5, True)])
def test_a_noticeable_gap_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], promised: float, says_why: bool
) -> None:
    callback = FitCallback(step_seconds=promised)
    run(callback, monkeypatch, [0, 1, 2, 3, 4, 5])
    callback.on_train_end(None, None, None)
    said = capsys.readouterr().err
    assert f"a step took 1 s, {promised:g} s were measured before" in said
    assert ("can be why" in said) is says_why


def test_nothing_is_said_without_a_promise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    callback = FitCallback()
    run(callback, monkeypatch, [0, 1, 2, 3, 4, 5])
    callback.on_train_end(None, None, None)
    assert capsys.readouterr().err == ""
