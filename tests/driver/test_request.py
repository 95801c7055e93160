"""Requests of a search: by keywords, in one place, checked."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import autofit
from autofit.driver.request import SearchRequest, filled
from autofit.errors import UserError
from autofit.job.request import JobKeywords, JobRequest

OF_THE_CALL_ALONE = {"predict", "baseline", "gpus", "observer"}


def test_the_library_call_has_the_fields_of_both_requests_with_their_defaults() -> None:
    parameters = inspect.signature(autofit.search).parameters
    fields = {field.name: field for request in (JobRequest, SearchRequest) for field in dataclasses.fields(request)}
    assert parameters.keys() == fields.keys() | OF_THE_CALL_ALONE
    for name, field in fields.items():
        default = parameters[name].default
        assert default == (inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default), name


def test_a_plan_takes_all_of_a_job_but_what_it_has_keywords_or_no_use_for() -> None:
    own = inspect.signature(autofit.plan).parameters.keys() | {"device", "memory_limit"}
    assert JobKeywords.__annotations__.keys() == {field.name for field in dataclasses.fields(JobRequest)} - own


def test_a_request_takes_what_it_has_a_field_for() -> None:
    request = filled(SearchRequest, {"budget": "90s", "max_trials": 3, "model": "gpt2"})
    assert (request.limits().seconds, request.limits().trials) == (90.0, 3)
    assert filled(SearchRequest, {"budget": None}).limits().seconds is None


@pytest.mark.parametrize(
    ("given", "message"),
    [({"max_trials": 0}, "--max-trials must be at least 1"), ({"numerics": "loose"}, "--numerics takes")],
)
def test_a_request_that_cannot_be_carried_out_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        filled(SearchRequest, given).space()
