"""Refusals of a job's request, before anything is built."""

from __future__ import annotations

import importlib.metadata

import pytest

from autofit.errors import UserError
from autofit.job.request import JobRequest


def test_a_model_by_name_needs_the_transformers_whose_trainer_takes_a_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "5.16.1")
    with pytest.raises(UserError, match=r"needs transformers 5.17 or newer, and 5.16.1 is installed.*autofit run"):
        JobRequest(model="gpt2", effective_batch=8).record()
