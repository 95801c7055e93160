"""Trials as rows and as a data frame."""

from __future__ import annotations

import sys

import pytest

from autofit.api import SearchResult
from autofit.errors import UserError
from autofit.report.rows import FIGURES, rows_of
from autofit.study.outcome import Outcome
from tests.doubles import make_trial
from tests.export.test_training_arguments import make_result


def make_search_result() -> SearchResult:
    failed = make_trial(1, seconds=None, outcome=Outcome.OOM, reason="no memory")
    return SearchResult(**vars(make_result(make_trial(0, seconds=2.0), failed)))


def test_every_trial_is_a_row_and_what_was_not_measured_is_missing() -> None:
    measured, failed = rows_of(make_search_result())
    assert measured["step_seconds"] == pytest.approx(2.0) and measured["attention"] == "sdpa"
    assert all(failed[name] is None for name in FIGURES) and failed["reason"] == "no memory"


def test_the_data_frame_has_the_same_rows() -> None:
    frame = make_search_result().to_pandas()
    assert list(frame["trial"]) == [0, 1] and frame["step_seconds"].isna().tolist() == [False, True]


def test_without_pandas_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        make_search_result().to_pandas()
